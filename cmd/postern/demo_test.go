package main

import (
	"context"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/cmd/postern/internal/process"
	"postern/test/kit"
)

func TestDemoOnce(t *testing.T) {
	t.Chdir(t.TempDir())
	for round := 1; round <= 2; round++ {
		status, stdout, stderr := command(t, "", "demo", "--once")
		if status != process.ExitOK {
			t.Fatalf("round %d: status %d\n%s\n%s", round, status, stdout, stderr)
		}
		mail, err := filepath.Glob("postern-demo/mail/*.eml")
		must(t, err)
		if len(mail) != round {
			t.Fatalf("round %d: %d messages, want one for each round", round, len(mail))
		}
		password := strings.TrimSpace(readFile(t, "postern-demo/password.txt"))
		if strings.Contains(stdout+stderr, password) || strings.Contains(stdout, "AUTH PLAIN A") {
			t.Error("the dialogue shows the password")
		}
		for _, want := range []string{"S: 220 ", "C: STARTTLS", "C: AUTH PLAIN ********", "S: 235 ", "C: .", "arrived: "} {
			if !strings.Contains(stdout, want) {
				t.Errorf("the dialogue lacks %q:\n%s", want, stdout)
			}
		}
	}
}

func TestDemoHandsItToAnotherHop(t *testing.T) {
	t.Chdir(t.TempDir())
	hop := startMailbox(t, t.TempDir())
	var out kit.LogBuffer
	ctx, stop := context.WithCancel(t.Context())
	d := demo{relay: hop.url(), out: &out, errs: t.Output()}
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	kit.Eventually(t, "the demo", func() bool { return strings.Contains(out.String(), "Ctrl-C") })
	password, err := d.folder.password()
	must(t, err)
	client := trial{address: d.ports.submissionAddresses()[0], folder: d.folder, user: demoUser, password: password, out: t.Output()}
	must(t, client.send(t.Context(), "relayed"))
	if _, err := findMessage(hop.dir, "relayed"); err != nil {
		t.Error(err)
	}
	stop()
	must(t, <-ended)
}

func TestDemoFolderIsPrivateAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "postern-demo")
	ports := demoPorts{Submission: 1587, Submissions: 1465}
	f, err := openDemoFolder(dir, ports)
	must(t, err)
	must(t, os.WriteFile(f.config(), []byte("# mine\n"), 0o600))
	cert, secret := readFile(t, f.cert()), readFile(t, f.secret())
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if info, _ := e.Info(); info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v; others could look into it", path, info.Mode())
		}
		return err
	}))
	_, err = openDemoFolder(dir, ports)
	must(t, err)
	if readFile(t, f.config()) != "# mine\n" || readFile(t, f.cert()) != cert || readFile(t, f.secret()) != secret {
		t.Error("the second run has changed the folder")
	}
}

// The configuration of the demo is one that serve takes.
func TestDemoConfigIsValid(t *testing.T) {
	f, err := openDemoFolder(filepath.Join(t.TempDir(), `a "b" ü`), demoPorts{Submission: 1587, Submissions: 1465})
	must(t, err)
	cfg, err := loadConfig(f.config())
	must(t, err)
	if got := cfg.TLS.Certificates[0].Cert; got != f.cert() {
		t.Errorf("certificate %q, want %q", got, f.cert())
	}
	if got := cfg.Listeners[1].Address[0]; got != "127.0.0.1:1465" {
		t.Errorf("address %q", got)
	}
}

func TestHowtoCanBePasted(t *testing.T) {
	var out strings.Builder
	h := howto{
		Folder: demoFolder{Dir: "/home/me/postern-demo"}, Mail: "/home/me/postern-demo/mail",
		Ports: demoPorts{Submission: 1587, Submissions: 1465, Why: "(why)"},
		User:  "demo", Password: "SECRET", Cert: "/home/me/postern-demo/cert.pem", Config: "/home/me/postern-demo/config.toml",
	}
	must(t, h.print(&out))
	for _, want := range []string{
		"port 1587 (STARTTLS) and 1465 (TLS).\n(why)\n",
		"swaks --server localhost:1587 --tls --auth PLAIN --auth-user demo --auth-password SECRET",
		"swaks --server localhost:1465 --tls-on-connect",
		"--url smtp://localhost:1587 --ssl-reqd --cacert /home/me/postern-demo/cert.pem --user demo:SECRET",
		"Port                   1587",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, out.String())
		}
	}
}

func TestPortsThatAreTaken(t *testing.T) {
	if l, err := net.Listen("tcp", "127.0.0.1:587"); err == nil {
		defer l.Close()
	} // else somebody else has it, or we may not
	p, err := choosePorts()
	must(t, err)
	if p.Submission%1000 != 587 || p.Submission == 587 || p.Submissions != p.Submission-587+465 {
		t.Errorf("chose %d and %d", p.Submission, p.Submissions)
	}
	if p.Why == "" {
		t.Error("does not say why")
	}
}

// A program that watches the folder never sees half of a message, and one that
// is aborted leaves nothing behind.
func TestDeliveryIsWholeOrNotThere(t *testing.T) {
	m, err := openMailbox(t.TempDir())
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- m.serve() }()
	defer func() { m.close(); must(t, <-served) }()
	whole := func() (names []string) {
		all, err := filepath.Glob(filepath.Join(m.dir, "*.eml"))
		must(t, err)
		return all
	}
	c, err := net.Dial("tcp", m.listen.Addr().String())
	must(t, err)
	in := textproto.NewConn(c)
	defer in.Close()
	send := func(line string, code int) {
		t.Helper()
		if line != "" {
			must(t, in.PrintfLine("%s", line))
		}
		if _, _, err := in.ReadResponse(code); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	send("", 220)
	send("EHLO localhost", 250)
	send("MAIL FROM:<a@example.org>", 250)
	send("RCPT TO:<b@example.org>", 250)
	send("BDAT 3\r\nx", 250)
	if got := whole(); len(got) != 0 {
		t.Errorf("%q is there before the message is whole", got)
	}
	send("RSET", 250)
	if left, err := os.ReadDir(m.dir); err != nil || len(left) != 0 {
		t.Errorf("%v is left of a message that was aborted (%v)", left, err)
	}
	send("MAIL FROM:<a@example.org>", 250)
	send("RCPT TO:<b@example.org>", 250)
	send("BDAT 9 LAST\r\n\r\nwhole", 250)
	got := whole()
	if len(got) != 1 || readFile(t, got[0]) != "Return-Path: <a@example.org>\r\nDelivered-To: b@example.org\r\n\r\nwhole\r\n" {
		t.Errorf("kept %q", got)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}
