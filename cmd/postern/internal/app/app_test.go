package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"postern/cmd/postern/internal/config"
	"postern/relay/relaytest"
	"postern/server/auth/userfile"
	"postern/test/kit"
)

// A site is the folder of a server in this process: its configuration and the files that
// this names.
type site struct {
	dir     string
	log     kit.LogBuffer
	signals chan os.Signal
}

func newSite(t *testing.T) *site {
	t.Helper()
	return &site{dir: t.TempDir(), signals: make(chan os.Signal)}
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(t *testing.T, text string) {
	t.Helper()
	kit.Must(t, os.WriteFile(s.file("config.toml"), []byte(text), 0o600))
}

func (s *site) certify(t *testing.T, name string, serial int64) {
	t.Helper()
	cert, key := kit.Certificate{Serial: serial}.SelfSignedPEM(t)
	kit.Must(t, os.WriteFile(s.file(name+".pem"), cert, 0o600))
	kit.Must(t, os.WriteFile(s.file(name+".key"), key, 0o600))
}

// users writes a user file in which each password is the name of the user.
func (s *site) users(t *testing.T, name string, users ...string) {
	t.Helper()
	kit.Must(t, os.RemoveAll(s.file(name)))
	for _, user := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(user), bcrypt.MinCost)
		kit.Must(t, err)
		kit.Must(t, userfile.SetPassword(s.file(name), user, string(hash), nil))
	}
}

func (s *site) daemon(t *testing.T) *Daemon {
	t.Helper()
	d, err := NewDaemon(func() (*config.Config, error) { return config.Load(s.file("config.toml")) }, &s.log)
	kit.Must(t, err)
	return d
}

// start serves until the end of the test.
func (s *site) start(t *testing.T) {
	t.Helper()
	d := s.daemon(t)
	if err := d.Start(nil); err != nil {
		d.Close()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := d.Run(context.Background(), s.signals)
		d.Close()
		ended <- err
	}()
	t.Cleanup(func() {
		s.signals <- syscall.SIGTERM
		kit.Must(t, <-ended)
	})
}

// reload sends SIGHUP and waits for a line with want in the log.
func (s *site) reload(t *testing.T, want string) {
	t.Helper()
	s.log.Take()
	s.signals <- syscall.SIGHUP
	kit.Eventually(t, "log line with "+want, func() bool { return strings.Contains(s.log.String(), want) })
}

// A session is a client on one listener, after TLS and EHLO.
type session struct {
	*kit.Client
	serial     int64 // of the server's certificate
	mechanisms string
}

func connect(t *testing.T, address string, implicit bool) *session {
	t.Helper()
	raw, err := net.Dial("tcp", address)
	kit.Must(t, err)
	settings := &tls.Config{InsecureSkipVerify: true}
	s := &session{Client: kit.NewClient(raw)}
	if implicit {
		s.Client = kit.NewClient(tls.Client(raw, settings))
	}
	t.Cleanup(s.Close)
	s.want(t, 220, "")
	if !implicit {
		s.want(t, 250, "EHLO client.example.org")
		s.want(t, 220, "STARTTLS")
		s.Client = kit.NewClient(tls.Client(raw, settings))
	}
	for _, line := range strings.Split(s.want(t, 250, "EHLO client.example.org"), "\n") {
		if names, ok := strings.CutPrefix(line, "AUTH "); ok {
			s.mechanisms = names
		}
	}
	s.serial = s.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	return s
}

func (s *session) want(t *testing.T, code int, line string) string {
	t.Helper()
	r, err := s.Ask(line)
	if err != nil || r.Code != code {
		t.Fatalf("%q: %v %v, want %d", line, r, err, code)
	}
	return r.Text
}

func (s *session) login(t *testing.T, code int, user string) {
	t.Helper()
	s.want(t, code, "AUTH PLAIN "+kit.Plain(user, user))
}

func (s *session) send(t *testing.T, token string) {
	t.Helper()
	s.want(t, 250, "MAIL FROM:<me@example.org>")
	s.want(t, 250, "RCPT TO:<you@example.com>")
	s.want(t, 354, "DATA")
	if r, _, err := s.Finish("From: me@example.org\r\nSubject: " + token + "\r\n\r\n" + token + "\r\n"); err != nil || r.Code != 250 {
		t.Fatalf("message: %v %v", r, err)
	}
}

// delivered waits until hop has so many messages, the last of them with token.
func delivered(t *testing.T, hop *relaytest.Hop, n int, token string) {
	t.Helper()
	kit.Soon(func() bool { return len(hop.Delivered()) >= n })
	all := hop.Delivered()
	if len(all) != n || !strings.Contains(string(all[n-1].Data), token) {
		t.Fatalf("the hop has %d messages, want %d with %s", len(all), n, token)
	}
}

const twoListeners = `
[server]
hostname = "localhost"
[[listener]]
name = "staff"
address = [%q]
[[listener]]
name = "printers"
address = [%q]
mode = "tls"
tls.certificates = [{ cert = %q, key = %q }]
auth.stores = [{ kind = "userfile", path = %q }]
auth.mechanisms = ["PLAIN"]
relay.next_hops = [%q]
`

// shared is the end of a configuration: the sections that all listeners share, with the
// certificate "cert". More keys of [relay] may follow.
func (s *site) shared(users string, hop *relaytest.Hop) string {
	return fmt.Sprintf(`
[tls]
certificates = [{ cert = %q, key = %q }]
[auth]
stores = [{ kind = "userfile", path = %q }]
[relay]
next_hops = [%q]
`, s.file("cert.pem"), s.file("cert.key"), s.file(users), hop.URL())
}

// writeTwo writes a configuration in which the listener printers has its own certificate,
// the file "printers" with its users, and its own next hop.
func (s *site) writeTwo(t *testing.T, staff, printers, certificate string, hop, printerHop *relaytest.Hop) {
	t.Helper()
	s.write(t, fmt.Sprintf(twoListeners, staff, printers, s.file(certificate+".pem"), s.file(certificate+".key"),
		s.file("printers"), printerHop.URL())+s.shared("staff", hop))
}

// Two listeners with different certificates, stores, mechanisms and next hops are one
// server each, and stay so over a reload.
func TestListenersHaveTheirOwnParts(t *testing.T) {
	s := newSite(t)
	staffHop, printerHop, thirdHop := relaytest.New(t, relaytest.Options{}), relaytest.New(t, relaytest.Options{}), relaytest.New(t, relaytest.Options{})
	staff, printers := kit.Addr(t), kit.Addr(t)
	s.certify(t, "cert", 11)
	s.certify(t, "printers", 22)
	s.users(t, "staff", "alice")
	s.users(t, "printers", "laser")
	s.writeTwo(t, staff, printers, "printers", staffHop, printerHop)
	s.start(t)

	one, two := connect(t, staff, false), connect(t, printers, true)
	if one.serial != 11 || two.serial != 22 {
		t.Errorf("certificates %d and %d", one.serial, two.serial)
	}
	if one.mechanisms != "PLAIN LOGIN" || two.mechanisms != "PLAIN" {
		t.Errorf("mechanisms %q and %q", one.mechanisms, two.mechanisms)
	}
	connect(t, staff, false).login(t, 535, "laser")
	connect(t, printers, true).login(t, 535, "alice")
	one.login(t, 235, "alice")
	two.login(t, 235, "laser")
	one.send(t, "from staff")
	two.send(t, "from printers")
	delivered(t, staffHop, 1, "from staff")
	delivered(t, printerHop, 1, "from printers")

	// The reload gives the printers another certificate, user and hop. Open sessions use
	// the new store and the new hop.
	waiting := connect(t, printers, true)
	s.certify(t, "other", 33)
	s.users(t, "printers", "inkjet")
	s.writeTwo(t, staff, printers, "other", staffHop, thirdHop)
	s.reload(t, "msg=reloaded")
	waiting.login(t, 535, "laser")
	waiting.login(t, 235, "inkjet")
	waiting.send(t, "by inkjet")
	two.send(t, "again from printers")
	delivered(t, thirdHop, 2, "again from printers")
	delivered(t, printerHop, 1, "from printers")
	if got := connect(t, printers, true).serial; got != 33 {
		t.Errorf("certificate %d after the reload", got)
	}
	again := connect(t, staff, false)
	again.login(t, 235, "alice")
	again.send(t, "again from staff")
	delivered(t, staffHop, 2, "again from staff")
}

// A login at the stores of one listener does not spare its name at other stores the delays
// after wrong guesses.
func TestOtherStoresHaveOtherUsers(t *testing.T) {
	s := newSite(t)
	hop := relaytest.New(t, relaytest.Options{})
	staff, printers := kit.Addr(t), kit.Addr(t)
	s.certify(t, "cert", 11)
	s.users(t, "staff", "alice")
	s.users(t, "printers", "alice")
	s.writeTwo(t, staff, printers, "cert", hop, hop)
	s.start(t)
	connect(t, printers, true).login(t, 235, "alice")
	guessing := connect(t, staff, false)
	begun := time.Now()
	guessing.want(t, 535, "AUTH PLAIN "+kit.Plain("alice", "guess"))
	guessing.login(t, 535, "other")
	if took := time.Since(begun); took < 2*time.Second {
		t.Errorf("the guess and the login after it take %v, want at least the delay of 2s", took)
	}
}

// A spooled message goes to the hops of the listener that accepted it, or to the shared
// ones after that listener was removed.
func TestSpoolUsesTheHopsOfTheListener(t *testing.T) {
	s := newSite(t)
	shared, own := relaytest.New(t, relaytest.Options{}), relaytest.New(t, relaytest.Options{})
	address := kit.Addr(t)
	s.certify(t, "cert", 1)
	s.users(t, "users", "alice")
	configure := func(name string) {
		s.write(t, fmt.Sprintf(`
[server]
hostname = "localhost"
[[listener]]
name = %q
address = [%q]
relay.next_hops = [%q]
%spatience = "50ms"
spool = %q
`, name, address, own.URL(), s.shared("users", shared), s.file("spool")))
	}
	configure("submission")
	s.start(t)
	own.Stop()
	c := connect(t, address, false)
	c.login(t, 235, "alice")
	c.send(t, "to its own hop")
	own.Start()
	delivered(t, own, 1, "to its own hop")

	own.Stop()
	c.send(t, "to the shared hop")
	configure("renamed")
	s.reload(t, "msg=reloaded")
	delivered(t, shared, 1, "to the shared hop")
	own.Start()
	delivered(t, own, 1, "to its own hop")
}

// The sockets of a listener that was removed stay open. Its clients do not get the stores
// and hops of others, but a temporary error, unless it used the shared ones.
func TestRemovedListenerKeepsItsParts(t *testing.T) {
	s := newSite(t)
	hop, printerHop := relaytest.New(t, relaytest.Options{}), relaytest.New(t, relaytest.Options{})
	staff, printers := kit.Addr(t), kit.Addr(t)
	s.certify(t, "cert", 11)
	s.users(t, "printers", "laser")
	s.users(t, "staff", "alice")
	s.writeTwo(t, staff, printers, "cert", hop, printerHop)
	s.start(t)
	waiting, sending := connect(t, printers, true), connect(t, printers, true)
	sending.login(t, 235, "laser")

	s.write(t, fmt.Sprintf(`
[server]
hostname = "localhost"
[[listener]]
name = "renamed"
address = [%q]
`, staff)+s.shared("staff", hop))
	s.reload(t, "msg=reloaded")
	waiting.login(t, 454, "alice")
	late := connect(t, printers, true)
	if late.mechanisms == "" {
		t.Error("no AUTH is offered, so a client gets 530 to MAIL")
	}
	late.login(t, 454, "laser")
	sending.want(t, 250, "MAIL FROM:<me@example.org>")
	sending.want(t, 451, "RCPT TO:<you@example.com>")

	same := connect(t, staff, false)
	same.login(t, 235, "alice")
	same.send(t, "by the shared hop")
	delivered(t, hop, 1, "by the shared hop")
}

func TestSandboxCanBeDisabled(t *testing.T) {
	s := newSite(t)
	s.write(t, "[server]\nsandbox = false\n")
	d := s.daemon(t)
	defer d.Close()
	d.File = s.file("config.toml")
	kit.Must(t, d.enterSandbox())
	if d.sandbox != nil || !strings.Contains(s.log.String(), "server.sandbox = false") {
		t.Errorf("sandbox: %v; log:\n%s", d.sandbox, s.log.String())
	}
	kit.Must(t, d.sandbox.Allows(d.cfg.Access(d.File)))
}
