package check

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"postern/cmd/postern/internal/apptest"
	"postern/cmd/postern/internal/process"
	"postern/internal/access"
	"postern/test/kit"
)

func TestMain(m *testing.M) {
	if status, ok := kit.RunSubprocess(map[string]func() int{"check": checkInSubprocess}); ok {
		os.Exit(status)
	}
	os.Exit(kit.Main(m))
}

// run checks the configuration of s.
func run(t *testing.T, s *apptest.Server) (ok bool, out string) {
	t.Helper()
	var text strings.Builder
	report := NewReport(&text, false)
	Run(t.Context(), s.Config(), Options{}, report)
	return !report.Has(Fail), text.String()
}

func TestCheckOfAGoodConfiguration(t *testing.T) {
	s := apptest.New(t)
	ok, out := run(t, s)
	if !ok {
		t.Error("the check failed")
	}
	apptest.WantLines(t, out, "ok    configuration", "ok    certificate", "ok    store", "ok    policy", "ok    stage", "ok    relay")
}

func TestCheckOfABadConfiguration(t *testing.T) {
	s := apptest.New(t)
	s.Configure(t, `[[relay.dkim]]
domain = "example.org"
selector = "s1"
key = "`+s.File("missing.pem")+`"
[policy]
recipient = "permit_sasl_authenticated"
mynetworks = "127.0.0.0/8"
`)
	s.Mailbox.Close()
	kit.Must(t, os.WriteFile(s.File("cert.pem"), []byte("broken"), 0o600))
	kit.Must(t, os.Remove(s.File("users")))
	ok, out := run(t, s)
	if ok {
		t.Error("the check succeeded")
	}
	apptest.WantLines(t, out, "ok    configuration", "FAIL  certificate", "FAIL  store", "warn  policy", "FAIL  relay", "FAIL  DKIM key", "missing.pem")
}

// A Postfix on the same machine rewrites headers by default. The note has the setting
// once, and mentions signatures only if there are DKIM keys.
func TestCheckOfHeaderRewriting(t *testing.T) {
	const setting, signatures = "-o local_header_rewrite_clients=", "signatures of the DKIM keys"
	s := apptest.New(t)
	check := func() string {
		_, out := run(t, s)
		return out
	}
	out := check()
	apptest.WantLines(t, out, "note  relay          on this machine: "+s.Mailbox.URL()+";", "postconf -e 'local_header_rewrite_clients ='", setting)
	if strings.Contains(out, signatures) {
		t.Errorf("there are no signatures:\n%s", out)
	}
	s.Configure(t, "[[relay.dkim]]\ndomain = \"example.org\"\nselector = \"s1\"\nkey = \"key.pem\"\n")
	hop := fmt.Sprintf("%q", s.Mailbox.URL())
	text := apptest.ReadFile(t, s.Config())
	apptest.WriteFile(t, s.Config(), strings.Replace(text, hop, hop+`, "smtp://127.0.0.2:9"`, 1))
	out = check()
	apptest.WantLines(t, out, s.Mailbox.URL()+", smtp://127.0.0.2:9;", signatures)
	if n := strings.Count(out, setting); n != 1 {
		t.Errorf("%d notes, want 1:\n%s", n, out)
	}
	apptest.WriteFile(t, s.Config(), strings.Replace(text, hop, `"smtp://hop.invalid:25"`, 1))
	if out := check(); strings.Contains(out, "local_header_rewrite_clients") {
		t.Errorf("the hop is not on this machine:\n%s", out)
	}
}

// If SCRAM is offered, check names the users without keys.
func TestCheckOfUsersWithoutScramKeys(t *testing.T) {
	s := apptest.New(t)
	s.User(t, "bob", "right")
	text := apptest.ReadFile(t, s.Config())
	apptest.WriteFile(t, s.Config(), strings.Replace(text, "[auth]\n", "[auth]\nmechanisms = [\"SCRAM-SHA-256\", \"PLAIN\"]\n", 1))
	ok, out := run(t, s)
	if !ok {
		t.Error("the check failed")
	}
	apptest.WantLines(t, out, "ok    store", "warn  store", "no keys for it: alice, bob\n", "--scheme scram-sha-256")
}

// If SCRAM is offered, check counts keys that clients with Cyrus SASL refuse.
func TestCheckOfKeysWithTooManyIterations(t *testing.T) {
	const keys = ",YK+1dPj8bZkC8xGGSYJxxg==,0UyNb/aUgNz9cMVocRpmC26+qybBm4s3VJbO56Pg2P0=,sNiopwTgYuTa9FZLshbHbI6ZgFrYvikeHMIF4xQXVi4="
	s := apptest.New(t)
	apptest.WriteFile(t, s.File("users"), "alice:{SCRAM-SHA-256}65536"+keys+"\nbob:{SCRAM-SHA-256}65537"+keys+"\ncarol:{SCRAM-SHA-256}100000"+keys+
		"\ndave:!{SCRAM-SHA-256}100000"+keys+"\n")
	text := apptest.ReadFile(t, s.Config())
	for mechanisms, warned := range map[string]bool{`["PLAIN"]`: false, `["SCRAM-SHA-256", "PLAIN"]`: true, `["SCRAM-SHA-256-PLUS", "PLAIN"]`: true} {
		apptest.WriteFile(t, s.Config(), strings.Replace(text, "[auth]\n", "[auth]\nmechanisms = "+mechanisms+"\n", 1))
		ok, out := run(t, s)
		if !ok {
			t.Errorf("%s: the check failed", mechanisms)
		}
		if warning := "keys of 2 users have more than 65536 iterations"; strings.Contains(out, warning) != warned {
			t.Errorf("%s: warned %v, want %v\n%s", mechanisms, !warned, warned, out)
		}
		if warned {
			apptest.WantLines(t, out, "warn  store", "refuse to compute: bob, carol\n", "--scheme scram-sha-256")
		}
	}
}

// check prints what the sandbox allows, or why there is none.
func TestCheckOfTheSandbox(t *testing.T) {
	s := apptest.New(t)
	_, out := run(t, s)
	if _, err := process.NewSandbox(new(access.List)).Describe(); err == nil {
		apptest.WantLines(t, out, "ok    sandbox        Landlock", "reads     ", s.Dir, "writes    ", "connects  to TCP ports ")
	} else {
		apptest.WantLines(t, out, "warn  sandbox        none: this kernel has no Landlock")
	}
	apptest.WriteFile(t, s.Config(), strings.Replace(apptest.ReadFile(t, s.Config()), "[server]\n", "[server]\nsandbox = false\n", 1))
	_, out = run(t, s)
	apptest.WantLines(t, out, "warn  sandbox        none, because server.sandbox = false")
}

// check distinguishes a free port from one that another process uses.
func TestCheckOfPorts(t *testing.T) {
	s := apptest.New(t)
	_, out := run(t, s)
	apptest.WantLines(t, out, "ok    port           "+s.Address+" (listener submission) is free\n")

	l, err := net.Listen("tcp", s.Address)
	kit.Must(t, err)
	defer l.Close()
	ok, out := run(t, s)
	if !ok {
		t.Error("the check failed")
	}
	apptest.WantLines(t, out, "warn  port           "+s.Address+" (listener submission) is in use by ")
	if strings.Contains(out, "is free") {
		t.Errorf("the output has a used port as free:\n%s", out)
	}
	if _, err := os.Stat("/proc/self/fd"); err == nil { // the program of this test listens
		apptest.WantLines(t, out, "is in use by check.test (pid ")
	}
}

// A server that accepts connections and sends no reply does not block check.
func TestCheckOfAStoreThatHangs(t *testing.T) {
	s := apptest.New(t)
	l, err := net.Listen("unix", s.File("mux"))
	kit.Must(t, err)
	defer l.Close()
	silent := fmt.Sprintf(`[{ kind = "pam", socket = %q, timeout = "100ms" }]`, s.File("mux"))
	text := apptest.ReadFile(t, s.Config())
	apptest.WriteFile(t, s.Config(), strings.Replace(text, fmt.Sprintf("[{ kind = \"userfile\", path = %q }]", s.File("users")), silent, 1))
	ok, out := run(t, s)
	if ok {
		t.Error("the check succeeded")
	}
	apptest.WantLines(t, out, "FAIL  store", "no answer in time", "ok    relay")
}

func checkInSubprocess() int {
	report := NewReport(os.Stdout, false)
	if Run(context.Background(), os.Getenv("POSTERN_TEST_FILE"), Options{}, report); report.Has(Fail) {
		return process.ExitFailure
	}
	return process.ExitOK
}

// Root can read files that the user of the server cannot.
func TestCheckRunsAsTheUser(t *testing.T) {
	s := apptest.New(t)
	text := strings.Replace(apptest.ReadFile(t, s.Config()), "[server]\n", "[server]\nuser = \"nobody\"\n", 1)
	apptest.WriteFile(t, s.Config(), text)
	dir := kit.OpenDir(t)
	for _, f := range []string{"config.toml", "cert.pem", "users"} {
		apptest.WriteFile(t, dir+"/"+f, strings.ReplaceAll(apptest.ReadFile(t, s.File(f)), s.Dir, dir))
		kit.Must(t, os.Chmod(dir+"/"+f, 0o644))
	}
	apptest.WriteFile(t, dir+"/key.pem", apptest.ReadFile(t, s.File("key.pem")))
	out := kit.AsRoot(t, "check", process.ExitFailure, "POSTERN_TEST_FILE="+dir+"/config.toml")
	apptest.WantLines(t, out, "ok    user           nobody", "FAIL  certificate", "key.pem", "mode 0600", "chgrp nogroup", "ok    store")
}

func TestCheckOfTheSpool(t *testing.T) {
	s := apptest.New(t)
	s.Configure(t, "spool = \""+s.File("spool")+"\"\n")
	ok, out := run(t, s)
	if ok {
		t.Error("the check succeeded")
	}
	apptest.WantLines(t, out, "FAIL  spool", "install -d")
	kit.Must(t, os.Mkdir(s.File("spool"), 0o700))
	ok, out = run(t, s)
	if !ok {
		t.Error("the check failed")
	}
	apptest.WantLines(t, out, "ok    spool")
}

func TestCheckOfTheStage(t *testing.T) {
	s := apptest.New(t)
	text := apptest.ReadFile(t, s.Config())
	apptest.WriteFile(t, s.Config(), strings.Replace(text, "[server]\n", "[server]\nstage_disk = \"900000GiB\"\n", 1))
	ok, out := run(t, s)
	if !ok {
		t.Error("the check failed")
	}
	apptest.WantLines(t, out, "ok    stage", "warn  stage", "server.stage_disk is 900000GiB; name a folder")
}

func TestFew(t *testing.T) {
	for most, want := range map[int]string{1: "x", 3: "x, x, x", 12: "x, x, x, x, x, x, x, x, x, x and 2 more"} {
		if got := few(strings.Split(strings.Repeat("x", most), "")); got != want {
			t.Errorf("%d: %s", most, got)
		}
	}
}

func TestPortHolder(t *testing.T) {
	if got := portHolder([]process.PortHolder{{PID: 812, Name: "master"}, {PID: 1, Name: "systemd"}}); got != "master (pid 812), systemd (pid 1)" {
		t.Error(got)
	}
	if got := portHolder(nil); !strings.Contains(got, "cannot see") || !strings.Contains(got, "ss -ltnp") {
		t.Error(got)
	}
	if isPostern(process.PortHolder{PID: 812, Name: "master"}) {
		t.Error("isPostern is true for Postfix")
	}
}

// check prints the folder for what survives a restart, or a note that there is none.
func TestStateFolder(t *testing.T) {
	s := apptest.New(t)
	folder := s.File("state")
	kit.Must(t, os.Mkdir(folder, 0o700))
	s.Replace(t, "[server]\n", fmt.Sprintf("[server]\nstate_dir = %q\n", folder))
	_, out := run(t, s)
	apptest.WantLines(t, out, "ok    state          "+folder)
	kit.Must(t, os.Remove(folder))
	ok, out := run(t, s)
	apptest.WantLines(t, out, "FAIL  state          server.state_dir: ", "install -d -m 0700 -o ", folder)
	if ok {
		t.Error("check has passed")
	}
}

// An SQL store does not know its users at the start, so check names the key that says how their
// passwords are hashed.
func TestCheckOfUnknownUserHash(t *testing.T) {
	for key, noted := range map[string]bool{"": true, `, unknown_user_hash = "bcrypt 12"`: false} {
		s := apptest.New(t)
		text, stores := apptest.ReadFile(t, s.Config()), "stores = ["
		if !strings.Contains(text, stores) {
			t.Fatal(text)
		}
		sql := `{ kind = "sql", driver = "sqlite", path = "` + s.File("users.sqlite") + `", ` +
			`query = "select hash, name as username from users where name = {user}"` + key + ` }, `
		apptest.WriteFile(t, s.Config(), strings.Replace(text, stores, stores+sql, 1))
		_, out := run(t, s) // the file does not exist
		if strings.Contains(out, "note  store") != noted || strings.Contains(out, "sql: unknown_user_hash is not set") != noted {
			t.Errorf("%q: want a note %v:\n%s", key, noted, out)
		}
	}
}

func TestReportAsJSON(t *testing.T) {
	s := apptest.New(t)
	var text strings.Builder
	report := NewReport(&text, true)
	Run(t.Context(), s.Config(), Options{}, report)
	kit.Must(t, report.Close())
	var got struct {
		OK      bool
		Entries []Entry
	}
	kit.Must(t, json.Unmarshal([]byte(text.String()), &got))
	if want := (Entry{OK, "configuration", s.Config()}); !got.OK || len(got.Entries) == 0 || got.Entries[0] != want {
		t.Errorf("%+v", got)
	}
}

// Without the network, next hops are not tried.
func TestCheckOffline(t *testing.T) {
	s := apptest.New(t)
	s.Mailbox.Close()
	var text strings.Builder
	report := NewReport(&text, false)
	if Run(t.Context(), s.Config(), Options{Offline: true}, report); report.Has(Fail) || strings.Contains(text.String(), "next hop") {
		t.Error(text.String())
	}
	apptest.WantLines(t, text.String(), "ok    certificate", "ok    store", "ok    policy")
}

// An entry that several listeners have is printed once.
func TestReportRepeatsNothing(t *testing.T) {
	var text strings.Builder
	r := NewReport(&text, false)
	r.Warn("part", "one\ntwo")
	r.Warn("part", "one\ntwo")
	if got, want := text.String(), "warn  part           one\n                     two\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
