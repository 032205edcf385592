package demo

import (
	"context"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/cmd/postern/internal/config"
	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

func TestOnce(t *testing.T) {
	t.Chdir(t.TempDir())
	for round := 1; round <= 2; round++ {
		var out, errs kit.LogBuffer
		d := Demo{Once: true, Out: &out, Errs: &errs}
		if err := d.Run(t.Context()); err != nil {
			t.Fatalf("round %d: %v\n%s\n%s", round, err, out.String(), errs.String())
		}
		mail, err := filepath.Glob("postern-demo/mail/*.eml")
		kit.Must(t, err)
		if len(mail) != round {
			t.Fatalf("round %d: %d messages, want one for each round", round, len(mail))
		}
		password := strings.TrimSpace(readFile(t, "postern-demo/password.txt"))
		if strings.Contains(out.String()+errs.String(), password) || strings.Contains(out.String(), "AUTH PLAIN A") {
			t.Error("the dialogue shows the password")
		}
		for _, want := range []string{"S: 220 postern-demo.invalid ", "this is a demo", "C: STARTTLS", "C: AUTH PLAIN ********", "S: 235 ", "C: .", "arrived: "} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the dialogue lacks %q:\n%s", want, out.String())
			}
		}
	}
}

func TestRelay(t *testing.T) {
	t.Chdir(t.TempDir())
	hop := startMailbox(t)
	var out kit.LogBuffer
	ctx, stop := context.WithCancel(t.Context())
	d := Demo{Relay: hop.URL(), Out: &out, Errs: t.Output()}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	kit.Eventually(t, "the demo", func() bool { return strings.Contains(out.String(), "Ctrl-C") })
	password, err := d.folder.password()
	kit.Must(t, err)
	client := Trial{Address: d.ports.submissionAddresses()[0], Cert: d.folder.cert(), User: user, Password: password, Out: t.Output()}
	kit.Must(t, client.Send(t.Context(), "relayed"))
	if _, err := hop.Find("relayed"); err != nil {
		t.Error(err)
	}
	stop()
	kit.Must(t, <-ended)
}

// startMailbox serves a mailbox until the end of the test.
func startMailbox(t *testing.T) *Mailbox {
	t.Helper()
	m, err := OpenMailbox(t.TempDir())
	kit.Must(t, err)
	served := make(chan error, 1)
	go func() { served <- m.Serve() }()
	t.Cleanup(func() {
		m.Close()
		kit.Must(t, <-served)
	})
	return m
}

func TestFolderIsPrivateAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "postern-demo")
	p := ports{Submission: 1587, Submissions: 1465}
	f, err := openFolder(dir, p)
	kit.Must(t, err)
	kit.Must(t, os.WriteFile(f.config(), []byte("# mine\n"), 0o600))
	cert, secret := readFile(t, f.cert()), readFile(t, f.secret())
	kit.Must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if info, _ := e.Info(); info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v; other users have access", path, info.Mode())
		}
		return err
	}))
	_, err = openFolder(dir, p)
	kit.Must(t, err)
	if readFile(t, f.config()) != "# mine\n" || readFile(t, f.cert()) != cert || readFile(t, f.secret()) != secret {
		t.Error("the second run changed the folder")
	}
}

// serve accepts the configuration of the demo, too.
func TestConfigIsValid(t *testing.T) {
	f, err := openFolder(filepath.Join(t.TempDir(), `a "b" ü`), ports{Submission: 1587, Submissions: 1465})
	kit.Must(t, err)
	cfg, err := config.Load(f.config())
	kit.Must(t, err)
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
		Folder: "/home/me/postern-demo", Mail: "/home/me/postern-demo/mail",
		Ports: ports{Submission: 1587, Submissions: 1465, Why: "(why)"},
		User:  "demo", Password: "SECRET", Cert: "/home/me/postern-demo/cert.pem", Config: "/home/me/postern-demo/config.toml",
	}
	kit.Must(t, h.print(&out, howtoText))
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

// The log of a container has the password once.
func TestPublicDemo(t *testing.T) {
	p := ports{Submission: 587, Submissions: 465, Public: true}
	if a := p.submissionAddresses(); len(a) != 1 || a[0] != ":587" {
		t.Errorf("addresses %q", a)
	}
	var out strings.Builder
	kit.Must(t, howto{Mail: "/tmp/postern-demo/mail", Ports: p, User: "demo", Password: "SECRET"}.print(&out, publicText))
	if strings.Count(out.String(), "SECRET") != 1 || !strings.Contains(out.String(), "delivers none") {
		t.Errorf("got %s", out.String())
	}
}

func TestChoosePortsWhenUsed(t *testing.T) {
	if l, err := net.Listen("tcp", "127.0.0.1:587"); err == nil {
		defer l.Close()
	} // else another process has it, or this user may not bind it
	p, err := choosePorts(false)
	kit.Must(t, err)
	if p.Submission%1000 != 587 || p.Submission == 587 || p.Submissions != p.Submission-587+465 {
		t.Errorf("chose %d and %d", p.Submission, p.Submissions)
	}
	if p.Why == "" {
		t.Error("no reason is given")
	}
}

// A program that watches the folder reads only whole messages, and an aborted
// message leaves no file.
func TestMailboxWritesWholeMessages(t *testing.T) {
	m := startMailbox(t)
	whole := func() (names []string) {
		all, err := filepath.Glob(filepath.Join(m.dir, "*.eml"))
		kit.Must(t, err)
		return all
	}
	c, err := net.Dial("tcp", m.listener.Addr().String())
	kit.Must(t, err)
	in := textproto.NewConn(c)
	defer in.Close()
	send := func(line string, code int) {
		t.Helper()
		if line != "" {
			kit.Must(t, in.PrintfLine("%s", line))
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
		t.Errorf("%q exists before the message is complete", got)
	}
	send("RSET", 250)
	if left, err := os.ReadDir(m.dir); err != nil || len(left) != 0 {
		t.Errorf("an aborted message leaves %v (%v)", left, err)
	}
	send("MAIL FROM:<a@example.org>", 250)
	send("RCPT TO:<b@example.org>", 250)
	send("BDAT 9 LAST\r\n\r\nwhole", 250)
	got := whole()
	if len(got) != 1 || readFile(t, got[0]) != "Return-Path: <a@example.org>\r\nDelivered-To: b@example.org\r\n\r\nwhole\r\n" {
		t.Errorf("got %q", got)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	kit.Must(t, err)
	return string(text)
}
