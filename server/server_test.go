package server

import (
	"context"
	"sync/atomic"
	"testing"

	"postern/relay"
)

// dial connects.
func (d *stand) dial() *client {
	d.t.Helper()
	c, err := dial(d.address(), d.parts.Listeners[0].Mode)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = c.raw.Close() })
	return c
}

// join connects and goes on to the 235.
func (d *stand) join() *client {
	d.t.Helper()
	c := d.dial()
	if err := c.login("alice secret"); err != nil {
		d.t.Fatalf("%v\n%s", err, c.transcript())
	}
	return c
}

// must fails the test if the dialogue does not go as the pairs of commands and
// codes say.
func (c *client) must(t *testing.T, commands ...string) {
	t.Helper()
	if err := c.converse(commands...); err != nil {
		t.Fatalf("%v\n%s", err, c.transcript())
	}
}

func TestNewWantsPolicies(t *testing.T) {
	d := newStand(t, defaultSettings())
	parts := d.parts
	parts.Policies = nil
	if _, err := New(parts); err == nil {
		t.Error("a listener without a policy was taken")
	}
	if err := d.server.Reload(parts); err == nil {
		t.Error("and at a reload")
	}
	d.join().must(t, "NOOP", "250") // the old parts go on
}

// TestReload: new connections meet the new limits and the new policy, those that
// are open keep the old.
func TestReload(t *testing.T) {
	s := defaultSettings()
	d := newStand(t, s)
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
	if line := d.log.first("restart needed"); line != "" {
		t.Errorf("logged: %s", line)
	}
}

// TestReloadSockets: what needs other sockets needs a restart, and says so.
func TestReloadSockets(t *testing.T) {
	s := defaultSettings()
	d := newStand(t, s)
	for _, test := range []struct{ name, key, value, log string }{
		{"address", "listener.address", "127.0.0.1:1", `msg="restart needed" listener=submission`},
		{"mode", "listener.mode", "tls", `msg="restart needed" listener=submission`},
		{"name", "listener.name", "other", `msg="restart needed" listener=other`},
	} {
		changed := s
		if err := changed.set(test.key, test.value); err != nil {
			t.Fatal(err)
		}
		before := d.log.count(test.log)
		if err := d.server.Reload(d.assemble(changed)); err != nil {
			t.Fatal(err)
		}
		if d.log.count(test.log) != before+1 {
			t.Errorf("%s: the log is silent", test.name)
		}
		d.join().must(t, "NOOP", "250")
	}
}

// changingHop is a next hop whose abilities change.
type changingHop struct {
	relay.NextHop
	caps atomic.Pointer[relay.Caps]
}

func (h *changingHop) Caps() relay.Caps { return *h.caps.Load() }

// TestCapsFollowTheHop: what is offered is what the hop can do at the time of the
// connection; and who asks for what the hop has lost meanwhile is refused.
func TestCapsFollowTheHop(t *testing.T) {
	s := defaultSettings()
	s.Hop.Extensions = []string{"8BITMIME"}
	d := newStand(t, s)
	hop := &changingHop{NextHop: d.router}
	hop.caps.Store(&relay.Caps{Known: true, Size: 100_000, DSN: true, SMTPUTF8: true, EightBit: true})
	parts := d.parts
	parts.Hop = hop
	if err := d.server.Reload(parts); err != nil {
		t.Fatal(err)
	}

	early := d.join()
	hop.caps.Store(&relay.Caps{Known: true, EightBit: true})
	late := d.join()
	for _, test := range []struct {
		client *client
		want   bool
	}{{early, true}, {late, false}} {
		test.client.must(t, "EHLO client.example.org", "250")
		for _, keyword := range []string{"DSN", "SMTPUTF8", "SIZE 91808"} {
			if test.client.offers(keyword) != test.want {
				t.Errorf("%s in %q", keyword, test.client.reply)
			}
		}
	}
	early.must(t, "MAIL FROM:<müller@example.org> SMTPUTF8", "250", "RCPT TO:<bob@example.org>", "550", "RSET", "250")
	// RFC 3461, section 5.2.2: what the hop does not know is left out.
	early.must(t, "MAIL FROM:<alice@example.org> RET=HDRS", "250", "RCPT TO:<bob@example.org> NOTIFY=NEVER", "250",
		"DATA", "354", "\r\n.", "250", "NOOP", "250")
	if m := d.hop.Delivered(); len(m) != 1 || m[0].To[0].Params != "" {
		t.Errorf("delivered: %+v", m)
	}
}

func TestSizeLimit(t *testing.T) {
	s := &service{config: &Config{MessageSizeLimit: 100_000}}
	for hop, want := range map[int64]int64{0: 100_000, 1 << 30: 100_000, 50_000: 50_000 - hopRoom, 100: 1} {
		if got := s.sizeLimit(relay.Caps{Size: hop}); got != want {
			t.Errorf("with a hop that takes %d: %d", hop, got)
		}
	}
}

// TestShutdownTwice: the second call finds nothing to do.
func TestShutdownTwice(t *testing.T) {
	d := newStand(t, defaultSettings())
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
