package server

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"postern/internal/netprefix"
	"postern/internal/share"
	"postern/server/auth"
)

func TestConnLimiter(t *testing.T) {
	one, other := netprefix.Client(netip.MustParseAddr("192.0.2.1")), netprefix.Client(netip.MustParseAddr("192.0.2.2"))
	const all, client = tooManyConnections, tooManyOfClient
	open := func(g *connLimiter, clients ...netip.Prefix) {
		for _, client := range clients {
			g.acquire(client, unauthenticated, bounds{})
		}
	}
	known := func(g *connLimiter, client netip.Prefix) {
		s, _, _ := g.acquire(client, unauthenticated, bounds{})
		s.logIn(share.User("", "alice"), 0)
		s.release()
	}
	for _, test := range []struct {
		name   string
		limits Limits
		before func(*connLimiter)
		reason string
	}{
		{"empty", Limits{Connections: 1, ConnectionsPerClient: 1, Unauthenticated: 1}, func(*connLimiter) {}, ""},
		{"zero is no limit", Limits{}, func(g *connLimiter) { open(g, one) }, ""},
		{"full", Limits{Connections: 2}, func(g *connLimiter) { open(g, one, other) }, all},
		{"client", Limits{ConnectionsPerClient: 1}, func(g *connLimiter) { open(g, one) }, client},
		{"another client", Limits{ConnectionsPerClient: 1}, func(g *connLimiter) { open(g, other) }, ""},
		{"unauthenticated", Limits{Unauthenticated: 1}, func(g *connLimiter) { open(g, other) }, tooMany[unauthenticated]},
		{"logged in", Limits{Unauthenticated: 1}, func(g *connLimiter) {
			s, _, _ := g.acquire(other, unauthenticated, bounds{})
			s.logIn(share.User("", "alice"), 0)
		}, ""},
		{"unauthenticated, and a known client", Limits{Unauthenticated: 1}, func(g *connLimiter) { known(g, one); open(g, other) }, ""},
		{"others, but of a known client", Limits{Unauthenticated: 1}, func(g *connLimiter) { known(g, other); open(g, other, other) }, ""},
		{"others, but of mynetworks", Limits{Unauthenticated: 1}, func(g *connLimiter) { g.acquire(other, trustedClient, bounds{}) }, ""},
		{"unauthenticated, and a client that has not logged in before", Limits{Unauthenticated: 1}, func(g *connLimiter) {
			s, _, _ := g.acquire(one, unauthenticated, bounds{})
			s.release()
			open(g, other)
		}, tooMany[unauthenticated]},
		{"released", Limits{Connections: 1, ConnectionsPerClient: 1, Unauthenticated: 1}, func(g *connLimiter) {
			s, _, _ := g.acquire(one, unauthenticated, bounds{})
			s.release()
		}, ""},
	} {
		var g connLimiter
		test.before(&g)
		s, _, reason := g.acquire(one, unauthenticated, test.limits.bounds(false))
		if reason != test.reason || (s == nil) != (reason != "") {
			t.Errorf("%s: acquire = %v, %q", test.name, s, reason)
		}
	}
}

// TestQuarters: the classes without a login leave a quarter of the connections for those
// that have logged in, whatever the limits are.
func TestQuarters(t *testing.T) {
	for _, limits := range []Limits{
		Defaults().Limits,
		{Connections: 8, ConnectionsPerClient: 1000, Unauthenticated: 1000},
		{Connections: 100, Unauthenticated: 7},
		{Connections: 10_000, ConnectionsPerClient: 9999, Unauthenticated: 9999},
	} {
		var g connLimiter
		b := limits.bounds(true)
		for i := range 2 * limits.Connections {
			client := netprefix.Client(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
			g.known.add(client)
			g.acquire(client, unauthenticated, b)
			g.acquire(netprefix.Client(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})), unauthenticated, b)
			g.acquire(netprefix.Client(netip.AddrFrom4([4]byte{12, byte(i >> 16), byte(i >> 8), byte(i)})), trustedClient, b)
		}
		if left := limits.Connections - g.open; left < limits.Connections/4 {
			t.Errorf("%+v: %v leave %d", limits, g.counts, left)
		}
		if g.counts[unauthenticated] > limits.Unauthenticated || g.counts[trustedClient] > limits.Unauthenticated {
			t.Errorf("%+v: %v", limits, g.counts)
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
	client, user := netprefix.Client(netip.MustParseAddr("2001:db8::1")), share.User("", "alice")
	first, _, _ := g.acquire(client, unauthenticated, bounds{})
	second, _, _ := g.acquire(client, unauthenticated, bounds{})
	first.canDrop(nil)
	first.logIn(user, 0)
	first.progress()
	first.release()
	first.release()
	first.logIn(user, 0)
	first.canDrop(nil)
	if g.open != 1 || g.counts != [classes]int{knownClient: 0, unauthenticated: 1} || g.clients[client] != 1 || len(g.users) != 0 {
		t.Errorf("one slot is left: %s", g.leftover())
	}
	second.canDrop(nil)
	second.progress()
	second.release()
	second.logIn(user, 0)
	if left := g.leftover(); left != "" {
		t.Errorf("no slot is left: %s", left)
	}
}

// age makes the sessions of all clients older. Their order stays.
func (d *testServer) age(by time.Duration) {
	d.server.forEach(func(n *session) {
		for _, s := range n.slots {
			s.limiter.mu.Lock()
			s.since = s.since.Add(-by)
			s.limiter.mu.Unlock()
		}
	})
}

// dropOldest acquires a slot for one more client, of which there is none to spare, and
// reports whether a connection was dropped for it.
func (d *testServer) dropOldest() bool {
	limiter := &d.server.limiter
	limiter.mu.Lock()
	b := bounds{ofClass: [classes]int{unauthenticated: max(limiter.counts[unauthenticated], 1)}}
	limiter.mu.Unlock()
	s, dropped, reason := limiter.acquire(netprefix.Client(netip.MustParseAddr("192.0.2.1")), unauthenticated, b)
	if s != nil {
		s.release()
	}
	if dropped != nil {
		dropped.events.Dropped(reason, "")
		dropped.slots.release()
	}
	return dropped != nil
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
	oldest, loggedIn := d.greeted(t), d.dial()
	if err := loggedIn.login("alice secret"); err != nil {
		t.Fatal(err)
	}
	known := d.greeted(t) // a login from its address has succeeded before
	d.age(time.Hour)
	newest := d.dialFrom("127.0.0.2")
	newest.must(t, "", "220")
	d.age(-time.Minute) // this test may take more than minStay
	if !d.dropOldest() || d.dropOldest() {
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

func (e *sessionDropHook) Dropped(string, string) { e.dropped() }

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
	d.age(time.Hour)
	if !d.dropOldest() {
		t.Fatal("no connection was dropped")
	}
}

// TestConcurrentDrops: each of many concurrent calls drops a connection.
func TestConcurrentDrops(t *testing.T) {
	const crowd = 8
	s := defaultSettings()
	s.Server.Limits.Unauthenticated = crowd
	d := newTestServer(t, s)
	var clients, others [crowd]*client
	for i := range clients {
		clients[i] = d.greeted(t)
	}
	d.age(time.Hour)
	var all sync.WaitGroup
	for i := range others {
		all.Go(func() { others[i] = d.dial() })
	}
	all.Wait()
	for i := range clients {
		others[i].must(t, "", "220")
		if err := clients[i].expectEOF(); err != nil {
			t.Error(err)
		}
	}
	if n := d.server.limiter.count(); n != crowd {
		t.Errorf("%d connections", n)
	}
}
