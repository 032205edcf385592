package app

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"postern/relay/relaytest"
	"postern/relay/sign"
	"postern/relay/spool"
	"postern/test/kit"
)

// A signingSite has a DKIM key for example.org, and three listeners. On two of them nobody
// needs a login: "open" has the test, which comes from loopback, outside mynetworks, and
// "trusted" within.
type signingSite struct {
	*site
	hop                  *relaytest.Hop
	open, trusted, staff string // addresses
	stop                 func()
}

func newSigningSite(t *testing.T) *signingSite {
	t.Helper()
	s := &signingSite{site: newSite(t), hop: relaytest.New(t, relaytest.Options{}), open: kit.Addr(t), trusted: kit.Addr(t), staff: kit.Addr(t)}
	s.certify(t, "cert", 1)
	s.users(t, "users", "alice")
	_, err := sign.GenerateKey(s.file("dkim.pem"), sign.Ed25519)
	kit.Must(t, err)
	listener := func(name, address, more string) string {
		return fmt.Sprintf("[[listener]]\nname = %q\naddress = [%q]\n%s\n", name, address, more)
	}
	const anybody = `require_auth = false
policy.recipient = "permit_mynetworks, permit_sasl_authenticated, permit_auth_destination, reject"
policy.local_domains = "example.org"
policy.mynetworks = `
	s.write(t, "[server]\nhostname = \"mail.example.org\"\norigin = \"example.org\"\n"+
		listener("open", s.open, anybody+`"192.0.2.0/24"`)+listener("trusted", s.trusted, anybody+`"127.0.0.0/8"`)+listener("staff", s.staff, "")+
		s.shared("users", s.hop)+fmt.Sprintf("patience = \"50ms\"\nspool = %q\n[[relay.dkim]]\ndomain = \"example.org\"\nselector = \"s\"\nkey = %q\n", s.file("spool"), s.file("dkim.pem")))
	s.run(t)
	t.Cleanup(func() { s.stop() })
	return s
}

// run starts the server; stop ends it.
func (s *signingSite) run(t *testing.T) {
	t.Helper()
	d := s.daemon(t)
	kit.Must(t, d.Start(nil))
	ended := make(chan error, 1)
	go func() {
		err := d.Run(context.Background(), s.signals)
		d.Close()
		ended <- err
	}()
	s.stop = func() {
		s.signals <- syscall.SIGTERM
		kit.Must(t, <-ended)
	}
}

// A signingCase is a message, and whether it gets a signature.
type signingCase struct {
	name, listener string
	login, signed  bool
	from           string // of the envelope
	header         string
}

func (s *signingSite) cases() []signingCase {
	const ceo = "From: ceo@example.org\r\n"
	return []signingCase{
		{"stranger", s.open, false, false, "x@example.net", ceo},
		{"stranger without From", s.open, false, false, "ceo@example.org", ""},
		{"stranger with an incomplete From", s.open, false, false, "ceo", "From: ceo\r\n"},
		{"stranger with the null sender", s.open, false, false, "", ceo},
		{"stranger with several authors", s.open, false, false, "x@example.net", "From: a@example.org, b@example.org\r\n"},
		{"stranger with a group", s.open, false, false, "x@example.net", "From: board: ceo@example.org;\r\n"},
		{"stranger with Sender", s.open, false, false, "x@example.net", ceo + "Sender: x@example.net\r\n"},
		{"stranger that claims a report", s.open, false, false, "", "From: Mail Delivery System <MAILER-DAEMON@example.org>\r\nAuto-Submitted: auto-replied\r\n"},
		{"user on the same listener", s.open, true, true, "alice@example.org", ceo},
		{"user", s.staff, true, true, "alice@example.org", ceo},
		{"user with the null sender", s.staff, true, true, "", ceo},
		{"user of another domain", s.staff, true, false, "alice@example.org", "From: ceo@example.net\r\n"},
		{"client in mynetworks", s.trusted, false, true, "x@example.net", ceo},
		{"client in mynetworks of another domain", s.trusted, false, false, "x@example.net", "From: a@example.net\r\n"},
	}
}

func (c *signingCase) send(t *testing.T) {
	t.Helper()
	client := connect(t, c.listener, false)
	if c.login {
		client.login(t, 235, "alice")
	}
	client.want(t, 250, "MAIL FROM:<"+c.from+">")
	client.want(t, 250, "RCPT TO:<you@example.org>")
	client.want(t, 354, "DATA")
	if r, _, err := client.Finish(c.header + "Subject: " + c.name + "\r\n\r\nx\r\n"); err != nil || r.Code != 250 {
		t.Fatalf("%s: %v %v", c.name, r, err)
	}
}

// arrived checks the signatures of the messages that the hop has.
func (s *signingSite) arrived(t *testing.T, cases []signingCase) {
	t.Helper()
	kit.Eventually(t, "all messages have arrived", func() bool { return len(s.hop.Delivered()) >= len(cases) })
	messages, _, _ := s.hop.Take()
	for _, c := range cases {
		found := 0
		for _, m := range messages {
			text := string(m.Data)
			if !strings.Contains(text, "\nSubject: "+c.name+"\r\n") {
				continue
			}
			found++
			if signed := strings.HasPrefix(text, "DKIM-Signature: "); signed != c.signed {
				t.Errorf("%s: signed %v, want %v:\n%s", c.name, signed, c.signed, text)
			}
		}
		if found != 1 {
			t.Errorf("%s: it has arrived %d times", c.name, found)
		}
	}
}

// Only messages of users and of clients in mynetworks are signed, whatever the From field of
// others has.
func TestOnlyAuthorizedClientsAreSigned(t *testing.T) {
	s := newSigningSite(t)
	for _, c := range s.cases() {
		c.send(t)
	}
	s.arrived(t, s.cases())
}

// The spool changes nothing about that, even if the messages were held or the server was
// restarted in between.
func TestOnlyAuthorizedClientsAreSignedThroughTheSpool(t *testing.T) {
	s := newSigningSite(t)
	s.hop.Stop()
	for _, c := range s.cases() {
		c.send(t)
	}
	queue, err := spool.Browse(s.file("spool"))
	kit.Must(t, err)
	items, err := queue.List()
	kit.Must(t, err)
	for i, item := range items {
		if i%2 == 0 {
			kit.Must(t, queue.Hold(item.ID))
		}
	}
	s.stop()
	s.hop.Start()
	s.run(t)
	for i, item := range items {
		if i%2 == 0 {
			kit.Must(t, queue.Release(item.ID))
		}
	}
	s.arrived(t, s.cases())
}

// A report is signed, also the one on a message that was not.
func TestReportsAreSigned(t *testing.T) {
	s := newSigningSite(t)
	s.hop.Stop()
	for _, c := range s.cases()[:2] {
		c.send(t)
	}
	s.hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "RCPT" && c.Address == "you@example.org" {
			return relaytest.Say("550 5.1.1 No such user")
		}
		return relaytest.Answer{}
	})
	s.stop()
	s.hop.Start()
	s.run(t)
	kit.Eventually(t, "both reports have arrived", func() bool { return len(s.hop.Delivered()) == 2 })
	for _, m := range s.hop.Delivered() {
		if text := string(m.Data); !strings.HasPrefix(text, "DKIM-Signature: ") || !strings.Contains(text, "\nFrom: Mail Delivery System <MAILER-DAEMON@example.org>\r\n") {
			t.Errorf("not a signed report:\n%s", text)
		}
	}
	files, err := os.ReadDir(s.file("spool/bad"))
	if err != nil || len(files) > 0 {
		t.Errorf("%d damaged files, %v", len(files), err)
	}
}
