package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"postern/cmd/postern/internal/process"
	"postern/internal/access"
	"postern/test/kit"
)

func TestCheckOfAGoodConfiguration(t *testing.T) {
	s := newTestServer(t)
	status, stdout, stderr := command(t, "", "check", "--config", s.config())
	if status != process.ExitOK {
		t.Errorf("status %d", status)
	}
	wantLines(t, stdout+stderr, "ok    configuration", "ok    certificate", "ok    store", "ok    policy", "ok    stage", "ok    relay")
}

func TestCheckOfABadConfiguration(t *testing.T) {
	s := newTestServer(t)
	s.configure(t, `[[relay.dkim]]
domain = "example.org"
selector = "s1"
key = "`+s.file("missing.pem")+`"
[policy]
recipient = "permit_sasl_authenticated"
mynetworks = "127.0.0.0/8"
`)
	s.mailbox.Close()
	kit.Must(t, os.WriteFile(s.file("cert.pem"), []byte("broken"), 0o600))
	kit.Must(t, os.Remove(s.file("users")))
	status, stdout, _ := command(t, "", "check", "--config", s.config())
	if status != process.ExitFailure {
		t.Errorf("status %d, want %d", status, process.ExitFailure)
	}
	wantLines(t, stdout, "ok    configuration", "FAIL  certificate", "FAIL  store", "warn  policy", "FAIL  relay", "FAIL  DKIM key", "missing.pem")
}

// A Postfix on the same machine rewrites headers by default. The note has the setting
// once, and mentions signatures only if there are DKIM keys.
func TestCheckOfHeaderRewriting(t *testing.T) {
	const setting, signatures = "-o local_header_rewrite_clients=", "signatures of the DKIM keys"
	s := newTestServer(t)
	check := func() string {
		_, stdout, _ := command(t, "", "check", "--config", s.config())
		return stdout
	}
	out := check()
	wantLines(t, out, "note  relay          on this machine: "+s.mailbox.URL()+";", "postconf -e 'local_header_rewrite_clients ='", setting)
	if strings.Contains(out, signatures) {
		t.Errorf("there are no signatures:\n%s", out)
	}
	s.configure(t, "[[relay.dkim]]\ndomain = \"example.org\"\nselector = \"s1\"\nkey = \"key.pem\"\n")
	hop := fmt.Sprintf("%q", s.mailbox.URL())
	text := readFile(t, s.config())
	writeFile(t, s.config(), strings.Replace(text, hop, hop+`, "smtp://127.0.0.2:9"`, 1))
	out = check()
	wantLines(t, out, s.mailbox.URL()+", smtp://127.0.0.2:9;", signatures)
	if n := strings.Count(out, setting); n != 1 {
		t.Errorf("%d notes, want 1:\n%s", n, out)
	}
	writeFile(t, s.config(), strings.Replace(text, hop, `"smtp://hop.invalid:25"`, 1))
	if out := check(); strings.Contains(out, "local_header_rewrite_clients") {
		t.Errorf("the hop is not on this machine:\n%s", out)
	}
}

// If SCRAM is offered, check names the users without keys.
func TestCheckOfUsersWithoutScramKeys(t *testing.T) {
	s := newTestServer(t)
	s.user(t, "bob", "right")
	text := readFile(t, s.config())
	writeFile(t, s.config(), strings.Replace(text, "[auth]\n", "[auth]\nmechanisms = [\"SCRAM-SHA-256\", \"PLAIN\"]\n", 1))
	status, stdout, _ := command(t, "", "check", "--config", s.config())
	if status != process.ExitOK {
		t.Errorf("status %d", status)
	}
	wantLines(t, stdout, "ok    store", "warn  store", "no keys for it: alice, bob\n", "--scheme scram-sha-256")
}

// If SCRAM is offered, check counts keys that clients with Cyrus SASL refuse.
func TestCheckOfKeysWithTooManyIterations(t *testing.T) {
	const keys = ",YK+1dPj8bZkC8xGGSYJxxg==,0UyNb/aUgNz9cMVocRpmC26+qybBm4s3VJbO56Pg2P0=,sNiopwTgYuTa9FZLshbHbI6ZgFrYvikeHMIF4xQXVi4="
	s := newTestServer(t)
	writeFile(t, s.file("users"), "alice:{SCRAM-SHA-256}65536"+keys+"\nbob:{SCRAM-SHA-256}65537"+keys+"\ncarol:{SCRAM-SHA-256}100000"+keys+
		"\ndave:!{SCRAM-SHA-256}100000"+keys+"\n")
	text := readFile(t, s.config())
	for mechanisms, warned := range map[string]bool{`["PLAIN"]`: false, `["SCRAM-SHA-256", "PLAIN"]`: true, `["SCRAM-SHA-256-PLUS", "PLAIN"]`: true} {
		writeFile(t, s.config(), strings.Replace(text, "[auth]\n", "[auth]\nmechanisms = "+mechanisms+"\n", 1))
		status, stdout, _ := command(t, "", "check", "--config", s.config())
		if status != process.ExitOK {
			t.Errorf("%s: status %d", mechanisms, status)
		}
		if warning := "keys of 2 users have more than 65536 iterations"; strings.Contains(stdout, warning) != warned {
			t.Errorf("%s: warned %v, want %v\n%s", mechanisms, !warned, warned, stdout)
		}
		if warned {
			wantLines(t, stdout, "warn  store", "refuse to compute: bob, carol\n", "--scheme scram-sha-256")
		}
	}
}

// check prints what the sandbox allows, or why there is none.
func TestCheckOfTheSandbox(t *testing.T) {
	s := newTestServer(t)
	_, stdout, _ := command(t, "", "check", "--config", s.config())
	if _, err := process.NewSandbox(new(access.List)).Describe(); err == nil {
		wantLines(t, stdout, "ok    sandbox        Landlock", "reads     ", s.dir, "writes    ", "connects  to TCP ports ")
	} else {
		wantLines(t, stdout, "warn  sandbox        none: this kernel has no Landlock")
	}
	writeFile(t, s.config(), strings.Replace(readFile(t, s.config()), "[server]\n", "[server]\nsandbox = false\n", 1))
	_, stdout, _ = command(t, "", "check", "--config", s.config())
	wantLines(t, stdout, "warn  sandbox        none, as server.sandbox = false asks for")
}

// check distinguishes a free port, one of postern and one of another process.
func TestCheckOfPorts(t *testing.T) {
	s := newTestServer(t)
	_, stdout, _ := command(t, "", "check", "--config", s.config())
	wantLines(t, stdout, "ok    port           "+s.address+" (listener submission) is free\n")

	l, err := net.Listen("tcp", s.address)
	kit.Must(t, err)
	defer l.Close()
	status, stdout, _ := command(t, "", "check", "--config", s.config())
	if status != process.ExitOK {
		t.Errorf("status %d", status)
	}
	wantLines(t, stdout, "port           "+s.address+" (listener submission) is ")
	if strings.Contains(stdout, "is free") {
		t.Errorf("the output has a used port as free:\n%s", stdout)
	}
	if _, err := os.Stat("/proc/self/fd"); err == nil { // this test is the postern that listens
		wantLines(t, stdout, "ok    port", "is in use by postern already: postern")
	}
}

// A server that accepts connections and sends no reply does not block check.
func TestCheckOfAStoreThatHangs(t *testing.T) {
	s := newTestServer(t)
	l, err := net.Listen("unix", s.file("mux"))
	kit.Must(t, err)
	defer l.Close()
	silent := fmt.Sprintf(`[{ kind = "pam", socket = %q, timeout = "100ms" }]`, s.file("mux"))
	text := readFile(t, s.config())
	writeFile(t, s.config(), strings.Replace(text, fmt.Sprintf("[{ kind = \"userfile\", path = %q }]", s.file("users")), silent, 1))
	status, stdout, _ := command(t, "", "check", "--config", s.config())
	if status != process.ExitFailure {
		t.Errorf("status %d, want %d", status, process.ExitFailure)
	}
	wantLines(t, stdout, "FAIL  store", "no answer in time", "ok    relay")
}

func checkInSubprocess() int {
	return run([]string{"check", "--config", os.Getenv("POSTERN_TEST_FILE")}, os.Stdin, os.Stdout, os.Stdout)
}

// Root can read files that the user of the server cannot.
func TestCheckRunsAsTheUser(t *testing.T) {
	s := newTestServer(t)
	text := strings.Replace(readFile(t, s.config()), "[server]\n", "[server]\nuser = \"nobody\"\n", 1)
	writeFile(t, s.config(), text)
	dir := kit.OpenDir(t)
	for _, f := range []string{"config.toml", "cert.pem", "users"} {
		writeFile(t, dir+"/"+f, strings.ReplaceAll(readFile(t, s.file(f)), s.dir, dir))
		kit.Must(t, os.Chmod(dir+"/"+f, 0o644))
	}
	writeFile(t, dir+"/key.pem", readFile(t, s.file("key.pem")))
	out := kit.AsRoot(t, "check", process.ExitFailure, "POSTERN_TEST_FILE="+dir+"/config.toml")
	wantLines(t, out, "ok    user           nobody", "FAIL  certificate", "key.pem", "mode 0600", "chgrp nogroup", "ok    store")
}

func wantLines(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in\n%s", w, text)
		}
	}
}
