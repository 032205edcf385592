package server

import (
	"context"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"postern/relay"
	"postern/relay/relaytest"
	"postern/server/auth"
	"postern/server/smtpd"
	"postern/test/kit"
)

func TestMain(m *testing.M) {
	kit.AtOnce(16)
	os.Exit(kit.Main(m))
}

func TestNewRequiresPolicies(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	parts := d.parts
	parts.Listeners = slices.Clone(parts.Listeners)
	parts.Listeners[0].Policy = nil
	if _, err := New(parts); err == nil {
		t.Error("New accepts a listener without a policy")
	}
	if err := d.server.Reload(parts); err == nil {
		t.Error("Reload accepts a listener without a policy")
	}
	d.join().must(t, "NOOP", "250") // with the old parts
}

// TestReload: new connections have the new limits and the new policy, and open ones
// keep theirs.
func TestReload(t *testing.T) {
	s := defaultSettings()
	d := newTestServer(t, s)
	old := d.join()
	s.Server.Limits.Recipients = 1
	if err := s.set("policy.recipient", "reject_non_fqdn_recipient, permit_sasl_authenticated, reject"); err != nil {
		t.Fatal(err)
	}
	if err := d.server.Reload(d.assemble(s)); err != nil {
		t.Fatal(err)
	}
	fresh := d.join()
	fresh.must(t, "MAIL FROM:<alice@example.org>", "250", "RCPT TO:<bob@localhost>", "504",
		"RCPT TO:<bob@example.org>", "250", "RCPT TO:<carol@example.org>", "452")
	old.must(t, "EHLO client.example.org", "250")
	if !old.offers("LIMITS RCPTMAX=1000") {
		t.Errorf("the old connection is offered %q", old.reply)
	}
	old.must(t, "MAIL FROM:<alice@example.org>", "250", "RCPT TO:<bob@localhost>", "250", "RCPT TO:<carol@example.org>", "250")
	if line := d.log.First("restart needed"); line != "" {
		t.Errorf("logged: %s", line)
	}
}

// TestReloadSockets: a change that needs other sockets is logged as one that needs a
// restart.
func TestReloadSockets(t *testing.T) {
	s := defaultSettings()
	d := newTestServer(t, s)
	for _, test := range []struct{ name, key, value, log string }{
		{"address", "listener.address", "127.0.0.1:1", `msg="restart needed" listener=submission`},
		{"mode", "listener.mode", "tls", `msg="restart needed" listener=submission`},
		{"name", "listener.name", "other", `msg="restart needed" listener=other`},
	} {
		changed := s
		if err := changed.set(test.key, test.value); err != nil {
			t.Fatal(err)
		}
		before := d.log.Count(test.log)
		if err := d.server.Reload(d.assemble(changed)); err != nil {
			t.Fatal(err)
		}
		if d.log.Count(test.log) != before+1 {
			t.Errorf("%s: nothing is logged", test.name)
		}
		d.join().must(t, "NOOP", "250")
	}
}

// A changingHop is a next hop whose abilities change.
type changingHop struct {
	relay.NextHop
	caps atomic.Pointer[relay.Caps]
}

func (h *changingHop) Caps() relay.Caps { return *h.caps.Load() }

// TestCapsFollowTheHop: EHLO lists what the hop can do at that time, and parameters are
// accepted or refused by that list until the next EHLO. A message that needs what the
// hop has lost since is refused.
func TestCapsFollowTheHop(t *testing.T) {
	s := defaultSettings()
	s.Hop.Extensions = []string{"8BITMIME"}
	d := newTestServer(t, s)
	hop := &changingHop{NextHop: d.router}
	hop.caps.Store(&relay.Caps{Known: true, Size: 100_000, DSN: true, SMTPUTF8: true, EightBit: true})
	d.services.Store(&Services{Auth: auth.Local{Passwords: d.users}, Hop: hop})

	offers := func(c *client, want bool) {
		t.Helper()
		c.must(t, "EHLO client.example.org", "250")
		for _, keyword := range []string{"DSN", "SMTPUTF8", "SIZE 91808"} {
			if c.offers(keyword) != want {
				t.Errorf("%s in %q", keyword, c.reply)
			}
		}
	}
	early, again := d.join(), d.join()
	offers(early, true)
	offers(again, true)
	hop.caps.Store(&relay.Caps{Known: true, EightBit: true})
	offers(d.join(), false)
	offers(again, false)
	again.must(t, "MAIL FROM:<müller@example.org> SMTPUTF8", "504", "MAIL FROM:<alice@example.org> RET=HDRS", "504",
		"MAIL FROM:<alice@example.org> SIZE=100000", "250", "RSET", "250")
	early.must(t, "MAIL FROM:<müller@example.org> SMTPUTF8", "250", "RCPT TO:<bob@example.org>", "550", "RSET", "250")
	// RFC 3461, section 5.2.2: the parameters that the hop does not support are left out.
	early.must(t, "MAIL FROM:<alice@example.org> RET=HDRS", "250", "RCPT TO:<bob@example.org> NOTIFY=NEVER", "250",
		"DATA", "354", "\r\n.", "250", "NOOP", "250")
	if m := d.hop.Delivered(); len(m) != 1 || m[0].To[0].Params != "" {
		t.Errorf("delivered: %+v", m)
	}
}

func TestSizeLimit(t *testing.T) {
	for limit, want := range map[int64]int64{0: 100_000, 1 << 30: 100_000, 50_000: 50_000 - hopRoom, 100: 1} {
		hop := &changingHop{}
		hop.caps.Store(&relay.Caps{Size: limit})
		parts := &ListenerParts{Services: func() (Services, func()) { return Services{Hop: hop}, func() {} }}
		s := &session{snapshot: &snapshot{config: &Config{MessageSizeLimit: 100_000}, parts: parts}}
		if got := s.Offer().Size; got != want {
			t.Errorf("with a hop whose limit is %d: %d", limit, got)
		}
	}
}

// TestShutdownTwice: the second call has nothing to do.
func TestShutdownTwice(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	d.server.linger.MaxIdle = time.Millisecond // the client stays
	d.join()
	for range 2 {
		if err := d.server.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	}
	if _, err := dial(d.address(), STARTTLS); err == nil {
		t.Error("the server still listens")
	}
}

// TestOverdueIsAbandoned: where duplicates are not suppressed, the connection to a hop that
// does not reply to the end of the data is closed.
func TestOverdueIsAbandoned(t *testing.T) {
	s := defaultSettings()
	s.Relay.DataTimeout = time.Second
	d := newTestServer(t, s)
	d.hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "." {
			return relaytest.Stall()
		}
		return relaytest.Usual
	})
	d.join().must(t, append(mailSteps, "DATA", "354", "\r\nx\r\n.", "451")...)
	kit.Eventually(t, "the connection to the hop is closed", func() bool { return d.hop.Open() == 0 })
}

// A panickyEvents panics when a message has been accepted.
type panickyEvents struct{ SessionEvents }

func (panickyEvents) Accepted(MessageEvent, relay.Receipt, time.Duration) { panic("burst") }

// TestPanicAfterSend: a client that receives 421 although the hop has its message has not
// seen the 250.
func TestPanicAfterSend(t *testing.T) {
	var seen []bool
	s := &session{events: panickyEvents{}}
	func() {
		defer func() { _ = recover() }()
		receipt := relay.Receipt{Seen: func(yes bool) { seen = append(seen, yes) }}
		s.accepted(&transaction{envelope: &relay.Envelope{}}, 1, receipt)
	}()
	if !slices.Equal(seen, []bool{false}) {
		t.Errorf("the client has seen it: %v", seen)
	}
}

// TestComplete: server.origin, or the hostname, completes an address that has no domain,
// and no other.
func TestComplete(t *testing.T) {
	for _, test := range []struct {
		config Config
		path   smtpd.Path
		want   string
	}{
		{Config{Hostname: "mail.example.org"}, smtpd.Path{Local: "postmaster"}, "postmaster@mail.example.org"},
		{Config{Hostname: "mail.example.org", Origin: "example.org"}, smtpd.Path{Local: "alice"}, "alice@example.org"},
		{Config{Origin: "example.org"}, smtpd.Path{Local: `"a b"`}, `"a b"@example.org`},
		{Config{Origin: "example.org"}, smtpd.Path{Local: `"alice@example.net"`}, `"alice@example.net"@example.org`},
		{Config{Origin: "example.org"}, smtpd.Path{Local: "alice", Domain: "localhost"}, "alice@localhost"},
		{Config{Origin: "example.org"}, smtpd.Path{Local: "alice", Domain: "[192.0.2.1]"}, "alice@[192.0.2.1]"},
		{Config{Origin: "example.org"}, smtpd.Path{}, ""},
	} {
		_, origin := test.config.Names()
		s := &session{snapshot: &snapshot{origin: origin}}
		if got := s.complete(test.path); got != test.want {
			t.Errorf("%+v with the origin %q: %q, want %q", test.path, origin, got, test.want)
		}
	}
}

// TestUnused: parts are reported as unused when they have been replaced and their last
// connection has ended, once.
func TestUnused(t *testing.T) {
	t.Parallel()
	d := newTestServer(t, defaultSettings())
	unused := make(chan string, 4)
	reload := func(name string) {
		t.Helper()
		parts := d.parts
		parts.Listeners = slices.Clone(parts.Listeners)
		parts.Listeners[0].Unused = func() { unused <- name }
		kit.Must(t, d.server.Reload(parts))
	}
	none := func() {
		t.Helper()
		select {
		case name := <-unused:
			t.Fatalf("%s is unused", name)
		default:
		}
	}
	reload("first")
	c := d.greeted(t) // the server has accepted it
	reload("second")
	none() // c uses the first
	reload("third")
	if name := <-unused; name != "second" { // no connection has used it
		t.Errorf("%s is unused, want second", name)
	}
	none()
	kit.Must(t, c.raw.Close())
	if name := <-unused; name != "first" {
		t.Errorf("%s is unused, want first", name)
	}
	none()
}

// TestUnusedWithoutRestart: parts that a reload cannot use, since the listener is new or has
// another mode, are unused at once.
func TestUnusedWithoutRestart(t *testing.T) {
	t.Parallel()
	d := newTestServer(t, defaultSettings())
	parts := d.parts
	fresh, changed := parts.Listeners[0], parts.Listeners[0]
	var unused []string
	fresh.Name, fresh.Unused = "fresh", func() { unused = append(unused, "fresh") }
	changed.Mode, changed.Unused = TLS, func() { unused = append(unused, "changed") }
	if parts.Listeners[0].Mode == TLS {
		changed.Mode = STARTTLS
	}
	parts.Listeners = []ListenerParts{fresh, changed}
	kit.Must(t, d.server.Reload(parts))
	if slices.Sort(unused); !slices.Equal(unused, []string{"changed", "fresh"}) {
		t.Errorf("unused: %q", unused)
	}
}
