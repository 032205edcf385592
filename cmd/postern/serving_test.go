package main

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

// A serving is a server in this process, with a folder of its own and a mailbox
// as its next hop.
type serving struct {
	dir     string
	address string // STARTTLS
	mailbox *demo.Mailbox
	signals chan os.Signal
	log     kit.LogBuffer
	ended   chan error
}

// newServing writes what a server needs and starts nothing but the mailbox.
func newServing(t *testing.T) *serving {
	t.Helper()
	return newServingIn(t, t.TempDir())
}

func newServingIn(t *testing.T, dir string) *serving {
	t.Helper()
	s := &serving{dir: dir, address: kit.Addr(t), signals: make(chan os.Signal), ended: make(chan error, 1)}
	certify(t, s.file("cert.pem"), s.file("key.pem"))
	s.user(t, "alice", "right")
	s.mailbox = startMailbox(t, s.file("mail"))
	s.configure(t, "")
	return s
}

// certify writes a new pair.
func certify(t *testing.T, certFile, keyFile string) {
	t.Helper()
	cert, key, err := certs.SelfSigned([]string{"localhost", "127.0.0.1"}, 30*24*time.Hour)
	must(t, err)
	must(t, os.WriteFile(certFile, cert, 0o600))
	must(t, os.WriteFile(keyFile, key, 0o600))
}

// startMailbox serves a mailbox until the end of the test.
func startMailbox(t *testing.T, dir string) *demo.Mailbox {
	t.Helper()
	m, err := demo.OpenMailbox(dir)
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- m.Serve() }()
	t.Cleanup(func() {
		m.Close()
		<-served
	})
	return m
}

func startServing(t *testing.T) *serving {
	t.Helper()
	s := newServing(t)
	s.start(t)
	return s
}

func (s *serving) file(name string) string { return filepath.Join(s.dir, name) }
func (s *serving) config() string          { return s.file("config.toml") }

func (s *serving) user(t *testing.T, name, password string) {
	t.Helper()
	hashed, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost) // quick
	must(t, err)
	must(t, userfile.SetPassword(s.file("users"), name, string(hashed)))
}

// configure writes the configuration; more goes to its end.
func (s *serving) configure(t *testing.T, more string) {
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
	must(t, os.WriteFile(s.config(), []byte(text), 0o600))
}

// start serves until stop, or the end of the test. It does not become anybody:
// these tests run as whoever runs them.
func (s *serving) start(t *testing.T) {
	t.Helper()
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(s.config()) }, &s.log)
	must(t, err)
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

// stop ends the server as a supervisor does.
func (s *serving) stop(t *testing.T) {
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

// reload sends SIGHUP and waits for what the log says of it.
func (s *serving) reload(t *testing.T, says string) {
	t.Helper()
	before := len(s.log.String())
	s.signals <- syscall.SIGHUP
	s.waitFor(t, before, says)
}

// waitFor waits until the log says something behind its first bytes.
func (s *serving) waitFor(t *testing.T, before int, says string) {
	t.Helper()
	if !kit.Soon(func() bool { return strings.Contains(s.log.String()[before:], says) }) {
		t.Fatalf("the log does not say %q:\n%s", says, s.log.String())
	}
}

// submit sends a message as alice, or as whoever is named.
func (s *serving) submit(t *testing.T, user, password string) error {
	t.Helper()
	return s.trial(t, user, password).Run(t.Context(), s.mailbox)
}

func (s *serving) trial(t *testing.T, user, password string) demo.Trial {
	return demo.Trial{Address: s.address, Cert: s.file("cert.pem"), User: user, Password: password, Out: t.Output()}
}
