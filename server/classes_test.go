package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"postern/policy"
	"postern/relay/relaytest"
	"postern/test/kit"
)

// openSettings are those of a listener that requires no login, with 40 connections: ten for
// each class.
func openSettings(mode Mode) settings {
	s := defaultSettings()
	s.Listener.Mode, s.Listener.RequireAuth = mode, false
	s.Policy.Recipient = policy.Words{{Name: "permit"}}
	s.Server.Limits.Connections = 40
	return s
}

// steps brings a client in clear text to EHLO in TLS, and then sends and expects more.
func (c *client) steps(more ...string) error {
	if c.mode == STARTTLS {
		if err := c.secure(); err != nil {
			return err
		}
	} else if err := c.converse("", "220"); err != nil {
		return err
	}
	return c.converse(append([]string{"EHLO client.example.org", "250"}, more...)...)
}

// busyStates are what a client without a login can do with its connection.
var busyStates = []struct {
	name string
	mode Mode
	do   func(c *client) error
}{
	{"before the greeting", TLS, func(*client) error { return nil }},
	{"in the handshake", TLS, func(c *client) error { return c.sendAll("\x16\x03\x01\x02\x00\x01") }},
	{"idle in clear text", STARTTLS, func(c *client) error { return c.converse("", "220") }},
	{"idle", STARTTLS, func(c *client) error { return c.steps() }},
	{"in half a line", STARTTLS, func(c *client) error { return firstError(c.steps(), c.sendAll("NOO")) }},
	{"in AUTH", STARTTLS, func(c *client) error { return c.steps("AUTH PLAIN", "334") }},
	{"in a transaction", STARTTLS, func(c *client) error { return c.steps(mailSteps...) }},
	{"in DATA", STARTTLS, func(c *client) error {
		return firstError(c.steps(append(mailSteps, "DATA", "354")...), c.sendAll("half a line"))
	}},
	{"in BDAT", STARTTLS, func(c *client) error { return firstError(c.steps(mailSteps...), c.sendAll("BDAT 1000\r\nhalf")) }},
	{"between chunks", STARTTLS, func(c *client) error { return c.steps(append(mailSteps, "BDAT 4\r\nhalf", "250")...) }},
	{"waiting for the hop", STARTTLS, func(c *client) error {
		return firstError(c.steps(append(mailSteps, "DATA", "354")...), c.sendAll("\r\nx\r\n.\r\n"))
	}},
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestUnauthenticatedLeaveRoom: whatever clients without a login do with their connections,
// they have a quarter of them, a new one takes the place of the oldest, and clients that log
// in get theirs.
func TestUnauthenticatedLeaveRoom(t *testing.T) {
	for _, state := range busyStates {
		t.Run(state.name, func(t *testing.T) {
			t.Parallel()
			d := newTestServer(t, openSettings(state.mode))
			d.hop.Handle(func(c relaytest.Command) relaytest.Answer {
				if c.Verb == "." {
					return relaytest.Stall()
				}
				return relaytest.Usual
			})
			var strangers []*client
			open := func(i int) *client {
				c := d.dialFrom(fmt.Sprintf("127.0.1.%d", i))
				strangers = append(strangers, c)
				return c
			}
			for i := range 10 {
				c := open(i)
				kit.Eventually(t, "the server has accepted it", func() bool { return d.session(c.raw) != nil })
				kit.Must(t, state.do(c))
			}
			d.age(-time.Hour) // this test may take more than minStay
			for i := range 30 {
				open(10 + i)
			}
			kit.Eventually(t, "all others are refused", func() bool {
				return d.log.Count(`msg="connection refused"*reason="`+tooMany[unauthenticated]+`" count=1`) == 30
			})
			d.age(2 * time.Hour)
			alice := d.dialFrom("127.0.2.1") // takes the place of the oldest
			kit.Must(t, alice.login("alice secret"))
			if n := d.server.limiter.count(); n != 10 {
				t.Errorf("%d connections", n)
			}
			kit.Must(t, strangers[0].raw.SetReadDeadline(time.Now().Add(patience)))
			if _, err := io.Copy(io.Discard, strangers[0].raw); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the oldest connection is still open")
			}
			kit.Must(t, state.do(open(99))) // alice has left the share
			again := d.dialFrom("127.0.2.1")
			kit.Must(t, again.login("alice secret")) // from a known address
			alice.must(t, "NOOP", "250")
			if n := d.log.Count(`msg="connection dropped"*reason="` + tooMany[unauthenticated] + `" count=1`); n != 1 {
				t.Errorf("%d lines about connections that were dropped\n%s", n, d.log)
			}
		})
	}
}

// TestWorkingIsDroppedLast: while the server relays the message of the oldest connection, or
// verifies its password, another one is dropped.
func TestWorkingIsDroppedLast(t *testing.T) {
	s := openSettings(STARTTLS)
	s.Server.Limits.Unauthenticated = 3
	d := newTestServer(t, s)
	release := make(chan struct{})
	d.hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "." {
			<-release
		}
		return relaytest.Usual
	})
	sending, verified, idle := d.dialFrom("127.0.1.1"), d.dialFrom("127.0.1.2"), d.dialFrom("127.0.1.3")
	kit.Must(t, firstError(sending.steps(append(mailSteps, "DATA", "354")...), sending.sendAll("\r\nx\r\n.\r\n")))
	kit.Must(t, firstError(verified.steps(), verified.sendAll("AUTH PLAIN AHNsb3cAc2VjcmV0\r\n")))
	kit.Must(t, idle.steps())
	<-d.users.asked
	kit.Eventually(t, "the message is at the hop", func() bool { return d.session(sending.raw).working.Load() })
	d.age(time.Hour)
	d.dialFrom("127.0.1.4").must(t, "", "220")
	kit.Must(t, idle.expectEOF())
	close(release)
	d.users.answer()
	sending.must(t, "", "250")
	verified.must(t, "", "235")
}

// TestProgressCounts: a client without a login whose messages are accepted keeps its place
// longer than one that does nothing.
func TestProgressCounts(t *testing.T) {
	s := openSettings(STARTTLS)
	s.Server.Limits.Unauthenticated = 2
	d := newTestServer(t, s)
	first, second := d.dialFrom("127.0.1.1"), d.dialFrom("127.0.1.2")
	kit.Must(t, first.steps())
	kit.Must(t, second.steps())
	first.must(t, append(mailSteps, "DATA", "354", "\r\nx\r\n.", "250")...)
	d.age(time.Hour)
	d.dialFrom("127.0.1.3").must(t, "", "220")
	kit.Must(t, second.expectEOF())
	first.must(t, "NOOP", "250")
}

// TestMyNetworksHaveAShare: clients in mynetworks have a share, which other clients do not
// use up, and which does not use up those of others.
func TestMyNetworksHaveAShare(t *testing.T) {
	s := openSettings(STARTTLS)
	s.Policy.Recipient = policy.Words{{Name: "permit_mynetworks"}, {Name: "reject"}}
	s.Policy.MyNetworks = policy.Networks(mustPrefixes(t, "127.0.3.0/24"))
	d := newTestServer(t, s)
	for i := range 10 {
		d.dialFrom(fmt.Sprintf("127.0.1.%d", i)).must(t, "", "220")
	}
	d.age(-time.Hour) // this test may take more than minStay
	d.dialFrom("127.0.1.99").must(t, "", "421")
	var printers []*client
	for i := range 10 {
		c := d.dialFrom(fmt.Sprintf("127.0.3.%d", i))
		c.must(t, "", "220")
		d.age(-time.Hour)
		printers = append(printers, c)
	}
	d.dialFrom("127.0.3.99").must(t, "", "421")
	d.age(24 * time.Hour)
	d.dialFrom("127.0.1.100").must(t, "", "220") // in the place of one outside mynetworks
	for _, c := range printers {
		c.must(t, "NOOP", "250")
	}
	if n := d.log.Count(`msg="connection refused"*reason="` + tooMany[trustedClient]); n != 1 {
		t.Errorf("%d lines about mynetworks", n)
	}
}

// TestListenerMakesRoom: a listener's own limits make room as those of the server do.
func TestListenerMakesRoom(t *testing.T) {
	for name, limit := range map[string]func(l *Listener){
		"unauthenticated":             func(l *Listener) { l.Limits.Unauthenticated = 2 },
		"connections without a login": func(l *Listener) { l.Limits.Connections, l.RequireAuth = 2, false },
		"connections":                 func(l *Listener) { l.Limits.Connections = 8 },
	} {
		t.Run(name, func(t *testing.T) {
			s := openSettings(STARTTLS)
			s.Listener.RequireAuth = true
			limit(&s.Listener)
			d := newTestServer(t, s)
			oldest := d.dialFrom("127.0.1.1")
			oldest.must(t, "", "220")
			other := d.dialFrom("127.0.1.2")
			other.must(t, "", "220")
			d.age(-time.Hour) // this test may take more than minStay
			d.dialFrom("127.0.1.3").must(t, "", "421")
			d.age(2 * time.Hour)
			alice := d.dialFrom("127.0.1.4")
			kit.Must(t, alice.login("alice secret"))
			kit.Must(t, oldest.expectEOF())
			other.must(t, "NOOP", "250")
		})
	}
}

// TestHealthChecksHaveAShare: connections for which a proxy names no client have a share,
// and do not count for the client that has the proxy's address.
func TestHealthChecksHaveAShare(t *testing.T) {
	s := openSettings(STARTTLS)
	s.Server.ProxyTrusted = mustPrefixes(t, "127.0.0.0/8")
	s.Server.Limits.ConnectionsPerClient = 2
	d := newTestServer(t, s)
	check := func() *client {
		c := d.dial()
		kit.Must(t, c.sendAll("PROXY UNKNOWN\r\n"))
		return c
	}
	first := check()
	first.must(t, "", "220")
	check().must(t, "", "220")
	d.age(-time.Hour) // this test may take more than minStay
	check().must(t, "", "421")
	named := d.dial()
	kit.Must(t, named.sendAll("PROXY TCP4 127.0.0.1 127.0.0.1 40000 587\r\n"))
	named.must(t, "", "220")
	d.age(2 * time.Hour)
	check().must(t, "", "220")
	kit.Must(t, first.expectEOF())
	named.must(t, "NOOP", "250")
}
