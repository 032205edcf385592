// Package apptest runs the server in the process of a test, for the tests of package
// app and of the commands.
package apptest

import (
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

// A Server is a configuration in a folder, and the server that uses it. Its user is
// alice with the password "right", and its next hop is a mailbox.
type Server struct {
	Dir     string
	Address string // of the listener, which has STARTTLS
	Mailbox *demo.Mailbox
	Signals chan os.Signal
	Log     kit.LogBuffer
	Ended   chan error // receives the result of the server, and is closed
}

// New writes the files of a server and starts its mailbox.
func New(t *testing.T) *Server {
	t.Helper()
	return NewIn(t, t.TempDir())
}

// NewIn is New in a folder that exists.
func NewIn(t *testing.T, dir string) *Server {
	t.Helper()
	s := (&Server{Dir: dir, Address: kit.Addr(t)}).Again()
	Certify(t, s.File("cert.pem"), s.File("key.pem"))
	s.User(t, "alice", "right")
	s.Mailbox = StartMailbox(t, s.File("mail"))
	s.Configure(t, "")
	return s
}

// Start starts a new server.
func Start(t *testing.T) *Server {
	t.Helper()
	s := New(t)
	s.Start(t)
	return s
}

// Again returns a server with the files of s that is not started.
func (s *Server) Again() *Server {
	return &Server{Dir: s.Dir, Address: s.Address, Mailbox: s.Mailbox, Signals: make(chan os.Signal), Ended: make(chan error, 1)}
}

// File returns the path of a file in the folder.
func (s *Server) File(name string) string { return filepath.Join(s.Dir, name) }

// Config returns the path of the configuration.
func (s *Server) Config() string { return s.File("config.toml") }

// User adds a user, or sets the password of one.
func (s *Server) User(t *testing.T, name, password string) {
	t.Helper()
	hashed, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	kit.Must(t, err)
	kit.Must(t, userfile.SetPassword(s.File("users"), name, string(hashed), nil))
}

// Configure writes the configuration, with more at its end.
func (s *Server) Configure(t *testing.T, more string) {
	t.Helper()
	WriteFile(t, s.Config(), fmt.Sprintf(`[server]
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
%s`, s.Address, s.File("cert.pem"), s.File("key.pem"), s.File("users"), s.Mailbox.URL(), more))
}

// Replace replaces the first occurrence of a text in the configuration.
func (s *Server) Replace(t *testing.T, before, after string) {
	t.Helper()
	WriteFile(t, s.Config(), strings.Replace(ReadFile(t, s.Config()), before, after, 1))
}

// Start serves until Stop, or the end of the test. It does not change the user of the
// process.
func (s *Server) Start(t *testing.T) {
	t.Helper()
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(s.Config()) }, &s.Log)
	kit.Must(t, err)
	if err := d.Start(nil); err != nil {
		d.Close()
		t.Fatal(err)
	}
	go func() {
		err := d.Run(context.Background(), s.Signals)
		d.Close()
		s.Ended <- err
		close(s.Ended)
	}()
	t.Cleanup(func() { s.Stop(t) })
}

// Stop ends the server as a service manager does.
func (s *Server) Stop(t *testing.T) {
	t.Helper()
	select {
	case s.Signals <- syscall.SIGTERM:
	case <-s.Ended:
		return
	}
	if err := <-s.Ended; err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

// Reload sends SIGHUP and waits for a text in the log.
func (s *Server) Reload(t *testing.T, want string) {
	t.Helper()
	before := len(s.Log.String())
	s.Signals <- syscall.SIGHUP
	s.WaitFor(t, before, want)
}

// WaitFor waits until the log has a text after its first bytes.
func (s *Server) WaitFor(t *testing.T, before int, want string) {
	t.Helper()
	if !kit.Soon(func() bool { return strings.Contains(s.Log.String()[before:], want) }) {
		t.Fatalf("the log lacks %q:\n%s", want, s.Log.String())
	}
}

// Trial returns a mail client.
func (s *Server) Trial(t *testing.T, user, password string) demo.Trial {
	return demo.Trial{Address: s.Address, Cert: s.File("cert.pem"), User: user, Password: password, Out: t.Output()}
}

// Submit logs in and sends a message, which must arrive in the mailbox.
func (s *Server) Submit(t *testing.T, user, password string) error {
	t.Helper()
	return s.Trial(t, user, password).Run(t.Context(), s.Mailbox)
}

// Certify writes a new self-signed certificate and its key.
func Certify(t *testing.T, certFile, keyFile string) {
	t.Helper()
	cert, key, err := certs.SelfSigned([]string{"localhost", "127.0.0.1"}, 30*24*time.Hour)
	kit.Must(t, err)
	WriteFile(t, certFile, string(cert))
	WriteFile(t, keyFile, string(key))
}

// StartMailbox serves a mailbox until the end of the test.
func StartMailbox(t *testing.T, dir string) *demo.Mailbox {
	t.Helper()
	m, err := demo.OpenMailbox(dir)
	kit.Must(t, err)
	served := make(chan error, 1)
	go func() { served <- m.Serve() }()
	t.Cleanup(func() {
		m.Close()
		kit.Must(t, <-served)
	})
	return m
}

// ReadFile returns the text of a file.
func ReadFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	kit.Must(t, err)
	return string(text)
}

// WriteFile writes a file that only its owner can read.
func WriteFile(t *testing.T, path, text string) {
	t.Helper()
	kit.Must(t, os.WriteFile(path, []byte(text), 0o600))
}

// WantLines reports the texts that a text lacks.
func WantLines(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in\n%s", w, text)
		}
	}
}
