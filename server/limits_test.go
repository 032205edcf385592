package server

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"postern/internal/netprefix"
	"postern/server/auth"
)

func TestConnLimiter(t *testing.T) {
	one, other := netprefix.Client(netip.MustParseAddr("192.0.2.1")), netprefix.Client(netip.MustParseAddr("192.0.2.2"))
	const (
		all             = "too many connections"
		unauthenticated = "too many connections that have not logged in"
		client          = "too many connections from this client"
	)
	for _, test := range []struct {
		name   string
		limits Limits
		before func(*connLimiter)
		reason string
	}{
		{"empty", Limits{Connections: 1, ConnectionsPerClient: 1, Unauthenticated: 1}, func(*connLimiter) {}, ""},
		{"zero is no limit", Limits{}, func(g *connLimiter) { g.acquire(one, Limits{}) }, ""},
		{"full", Limits{Connections: 2}, func(g *connLimiter) { g.acquire(one, Limits{}); g.acquire(other, Limits{}) }, all},
		{"client", Limits{ConnectionsPerClient: 1}, func(g *connLimiter) { g.acquire(one, Limits{}) }, client},
		{"another client", Limits{ConnectionsPerClient: 1}, func(g *connLimiter) { g.acquire(other, Limits{}) }, ""},
		{"unauthenticated", Limits{Unauthenticated: 1}, func(g *connLimiter) { g.acquire(other, Limits{}) }, unauthenticated},
		{"logged in", Limits{Unauthenticated: 1}, func(g *connLimiter) {
			s, _ := g.acquire(other, Limits{})
			s.authenticated(false)
		}, ""},
		{"unauthenticated, and a known client", Limits{Unauthenticated: 1}, func(g *connLimiter) {
			s, _ := g.acquire(one, Limits{})
			s.authenticated(true)
			s.release()
			g.acquire(other, Limits{})
		}, ""},
		{"unauthenticated, and a client of a listener without AUTH", Limits{Unauthenticated: 1}, func(g *connLimiter) {
			s, _ := g.acquire(one, Limits{})
			s.authenticated(false)
			s.release()
			g.acquire(other, Limits{})
		}, unauthenticated},
		{"others, but of a known client", Limits{Unauthenticated: 1}, func(g *connLimiter) {
			s, _ := g.acquire(other, Limits{})
			s.authenticated(true)
			s.release()
			g.acquire(other, Limits{})
			g.acquire(other, Limits{})
		}, ""},
		{"unauthenticated, and a client that has not logged in before", Limits{Unauthenticated: 1}, func(g *connLimiter) {
			s, _ := g.acquire(one, Limits{})
			s.release()
			g.acquire(other, Limits{})
		}, unauthenticated},
		{"released", Limits{Connections: 1, ConnectionsPerClient: 1, Unauthenticated: 1}, func(g *connLimiter) {
			s, _ := g.acquire(one, Limits{})
			s.release()
		}, ""},
	} {
		var g connLimiter
		test.before(&g)
		s, reason := g.acquire(one, test.limits)
		if reason != test.reason || (s == nil) != (reason != "") {
			t.Errorf("%s: acquire = %v, %q", test.name, s, reason)
		}
	}
}

// TestClientSet: the clients added last are known, and memory is bounded.
func TestClientSet(t *testing.T) {
	client := func(i int) netip.Prefix {
		return netprefix.Client(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	var s clientSet
	const most = 3 * clientSetHalf
	for i := range most {
		s.add(client(i))
	}
	if s.has(client(0)) || !s.has(client(most-clientSetHalf)) || !s.has(client(most-1)) {
		t.Error("the wrong clients are forgotten")
	}
	if n := len(s.young) + len(s.old); n > 2*clientSetHalf {
		t.Errorf("%d clients are remembered", n)
	}
}

// TestConnLimiterCounts: a slot is released once, for any calls in any order.
func TestConnLimiterCounts(t *testing.T) {
	var g connLimiter
	client := netprefix.Client(netip.MustParseAddr("2001:db8::1"))
	first, _ := g.acquire(client, Limits{})
	second, _ := g.acquire(client, Limits{})
	first.authenticated(false)
	first.authenticated(false)
	first.release()
	first.release()
	first.authenticated(false)
	if g.open != 1 || g.unauthenticated != 1 || g.clients[client] != 1 {
		t.Errorf("one slot is left: open %d, unauthenticated %d, of the client %d", g.open, g.unauthenticated, g.clients[client])
	}
	second.release()
	second.authenticated(false)
	if g.open != 0 || g.unauthenticated != 0 || len(g.clients) != 0 {
		t.Errorf("no slot is left: open %d, unauthenticated %d, clients %v", g.open, g.unauthenticated, g.clients)
	}
}

// age sets how long ago the session of a client has begun.
func (d *testServer) age(c *client, age time.Duration) *session {
	d.t.Helper()
	n := d.session(c.raw)
	if n == nil {
		d.t.Fatal("the server has no session of a client")
	}
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	n.begun = time.Now().Add(-age)
	return n
}

// greeted opens a connection and waits for the greeting.
func (d *testServer) greeted(t *testing.T) *client {
	t.Helper()
	c := d.dial()
	c.must(t, "", "220")
	return c
}

// TestDropOldestUnauthenticated: a slot is taken from the connection that has gone
// without a login for longest, if that is old enough. Connections that have logged in
// and those of known clients are not dropped.
func TestDropOldestUnauthenticated(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	oldest, loggedIn, newest := d.greeted(t), d.dial(), d.greeted(t)
	if err := loggedIn.login("alice secret"); err != nil {
		t.Fatal(err)
	}
	known := d.greeted(t) // a login from its address has succeeded before
	d.age(known, 2*time.Hour)
	d.age(loggedIn, time.Hour)
	d.age(oldest, time.Minute)
	d.age(newest, -time.Minute) // this test may take more than minStay
	if !d.server.dropOldestUnauthenticated() || d.server.dropOldestUnauthenticated() {
		t.Error("want one connection to be dropped, and the newest to stay")
	}
	if err := oldest.expectEOF(); err != nil {
		t.Error(err)
	}
	for _, c := range []*client{loggedIn, newest, known} {
		c.must(t, "NOOP", "250")
	}
	if n := d.log.Count(`msg="connection dropped"`); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
}

// A dropHook calls dropped when a connection is dropped.
type dropHook struct {
	Events
	dropped func()
}

func (e *dropHook) ForSession(id, listener string, client netip.Addr) SessionEvents {
	return &sessionDropHook{e.Events.ForSession(id, listener, client), e.dropped}
}

type sessionDropHook struct {
	SessionEvents
	dropped func()
}

func (e *sessionDropHook) Dropped() { e.dropped() }

// A stubbornStore finds every password right, even if its context has ended.
type stubbornStore struct{ asked, answer chan struct{} }

func (s stubbornStore) VerifyPassword(_ context.Context, _ *auth.Peer, login, _ string) (auth.Identity, error) {
	close(s.asked)
	<-s.answer
	return auth.Identity{User: login, Store: "stubborn"}, nil
}

// TestDroppedClientIsNotLoggedIn: a client whose password is found right while its
// connection is being dropped does not receive 235.
func TestDroppedClientIsNotLoggedIn(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	store := stubbornStore{make(chan struct{}), make(chan struct{})}
	var c *client
	hook := &dropHook{d.parts.Events, func() {
		close(store.answer)
		if line, err := c.line(); err == nil {
			t.Errorf("a client that is dropped has received %q", line)
		}
	}}
	d.server.mu.Lock() // Serve has begun
	d.server.events = hook
	d.server.mu.Unlock()
	if err := d.server.Reload(d.parts); err != nil { // so that a connection that comes now uses it
		t.Fatal(err)
	}
	d.setStore(store)
	c = d.dial()
	if err := c.secure(); err != nil {
		t.Fatal(err)
	}
	c.must(t, "EHLO client.example.org", "250")
	if err := c.sendAll("AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"); err != nil {
		t.Fatal(err)
	}
	<-store.asked
	d.age(c, time.Hour)
	if !d.server.dropOldestUnauthenticated() {
		t.Fatal("no connection was dropped")
	}
}

// TestConcurrentDrops: each of many concurrent calls drops a connection.
func TestConcurrentDrops(t *testing.T) {
	const crowd = 8
	d := newTestServer(t, defaultSettings())
	var clients []*client
	for range crowd {
		c := d.greeted(t)
		d.age(c, time.Hour)
		clients = append(clients, c)
	}
	var all sync.WaitGroup
	for range crowd {
		all.Go(func() {
			if !d.server.dropOldestUnauthenticated() {
				t.Error("no connection was dropped")
			}
		})
	}
	all.Wait()
	for _, c := range clients {
		if err := c.expectEOF(); err != nil {
			t.Error(err)
		}
	}
	if d.server.dropOldestUnauthenticated() {
		t.Error("a connection was dropped twice")
	}
}
