package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"postern/certs"
	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/demo"
	"postern/server/auth/userfile"
	"postern/test/kit"
)

func TestMain(m *testing.M) {
	if status, ok := kit.RunSubprocess(map[string]func() int{"check": checkInSubprocess, "confined": serveConfined}); ok {
		os.Exit(status)
	}
	os.Exit(kit.Main(m))
}

// A testServer is a server in this process. It has a folder and a mailbox as its next
// hop.
type testServer struct {
	dir     string
	address string // STARTTLS
	mailbox *demo.Mailbox
	signals chan os.Signal
	log     kit.LogBuffer
	ended   chan error
}

// newTestServer writes the files of a server and starts the mailbox only.
func newTestServer(t *testing.T) *testServer {
	t.Helper()
	return newTestServerIn(t, t.TempDir())
}

func newTestServerIn(t *testing.T, dir string) *testServer {
	t.Helper()
	s := &testServer{dir: dir, address: kit.Addr(t), signals: make(chan os.Signal), ended: make(chan error, 1)}
	certify(t, s.file("cert.pem"), s.file("key.pem"))
	s.user(t, "alice", "right")
	s.mailbox = startMailbox(t, s.file("mail"))
	s.configure(t, "")
	return s
}

// certify writes a new self-signed pair.
func certify(t *testing.T, certFile, keyFile string) {
	t.Helper()
	cert, key, err := certs.SelfSigned([]string{"localhost", "127.0.0.1"}, 30*24*time.Hour)
	kit.Must(t, err)
	kit.Must(t, os.WriteFile(certFile, cert, 0o600))
	kit.Must(t, os.WriteFile(keyFile, key, 0o600))
}

// startMailbox serves a mailbox until the end of the test.
func startMailbox(t *testing.T, dir string) *demo.Mailbox {
	t.Helper()
	m, err := demo.OpenMailbox(dir)
	kit.Must(t, err)
	served := make(chan error, 1)
	go func() { served <- m.Serve() }()
	t.Cleanup(func() {
		m.Close()
		<-served
	})
	return m
}

func startTestServer(t *testing.T) *testServer {
	t.Helper()
	s := newTestServer(t)
	s.start(t)
	return s
}

func (s *testServer) file(name string) string { return filepath.Join(s.dir, name) }
func (s *testServer) config() string          { return s.file("config.toml") }

func (s *testServer) user(t *testing.T, name, password string) {
	t.Helper()
	hashed, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost) // the lowest cost
	kit.Must(t, err)
	kit.Must(t, userfile.SetPassword(s.file("users"), name, string(hashed)))
}

// configure writes the configuration, with more at its end.
func (s *testServer) configure(t *testing.T, more string) {
	t.Helper()
	text := fmt.Sprintf(`[server]
hostname = "localhost"
[[listener]]
name = "submission"
address = [%q]
[tls]
certificates = [{ cert = %q, key = %q }]
[auth]
stores = [{ kind = "userfile", path = %q }]
[relay]
next_hops = [%q]
%s`, s.address, s.file("cert.pem"), s.file("key.pem"), s.file("users"), s.mailbox.URL(), more)
	kit.Must(t, os.WriteFile(s.config(), []byte(text), 0o600))
}

// start serves until stop, or the end of the test. It does not change the user of the
// process.
func (s *testServer) start(t *testing.T) {
	t.Helper()
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(s.config()) }, &s.log)
	kit.Must(t, err)
	if err := d.Start(nil); err != nil {
		d.Close()
		t.Fatal(err)
	}
	go func() {
		err := d.Run(context.Background(), s.signals)
		d.Close()
		s.ended <- err
		close(s.ended)
	}()
	t.Cleanup(func() { s.stop(t) })
}

// stop ends the server as a service manager does.
func (s *testServer) stop(t *testing.T) {
	t.Helper()
	select {
	case s.signals <- syscall.SIGTERM:
	case <-s.ended:
		return
	}
	if err := <-s.ended; err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

// reload sends SIGHUP and waits for a line in the log.
func (s *testServer) reload(t *testing.T, want string) {
	t.Helper()
	before := len(s.log.String())
	s.signals <- syscall.SIGHUP
	s.waitFor(t, before, want)
}

// waitFor waits until the log has a text after its first bytes.
func (s *testServer) waitFor(t *testing.T, before int, want string) {
	t.Helper()
	if !kit.Soon(func() bool { return strings.Contains(s.log.String()[before:], want) }) {
		t.Fatalf("the log lacks %q:\n%s", want, s.log.String())
	}
}

// submit logs in and sends a message, which must arrive in the mailbox.
func (s *testServer) submit(t *testing.T, user, password string) error {
	t.Helper()
	return s.trial(t, user, password).Run(t.Context(), s.mailbox)
}

func (s *testServer) trial(t *testing.T, user, password string) demo.Trial {
	return demo.Trial{Address: s.address, Cert: s.file("cert.pem"), User: user, Password: password, Out: t.Output()}
}

// command runs postern as a shell would.
func command(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(args, strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	kit.Must(t, err)
	return string(text)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	kit.Must(t, os.WriteFile(path, []byte(text), 0o600))
}
