package server

import (
	"net/netip"
	"testing"

	"postern/internal/netprefix"
)

func TestConnLimiter(t *testing.T) {
	one, other := netprefix.Client(netip.MustParseAddr("192.0.2.1")), netprefix.Client(netip.MustParseAddr("192.0.2.2"))
	const (
		all             = "too many connections"
		unauthenticated = "too many connections that have not logged in"
		client          = "too many connections from this client"
	)
	tests := []struct {
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
			s.authenticated()
		}, ""},
		{"unauthenticated, and a known client", Limits{Unauthenticated: 1}, func(g *connLimiter) {
			s, _ := g.acquire(one, Limits{})
			s.remember()
			s.release()
			g.acquire(other, Limits{})
		}, ""},
		{"unauthenticated, and a client of a listener without AUTH", Limits{Unauthenticated: 1}, func(g *connLimiter) {
			s, _ := g.acquire(one, Limits{})
			s.authenticated()
			s.release()
			g.acquire(other, Limits{})
		}, unauthenticated},
		{"others, but of a known client", Limits{Unauthenticated: 1}, func(g *connLimiter) {
			s, _ := g.acquire(other, Limits{})
			s.remember()
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
	}
	for _, test := range tests {
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
	first.authenticated()
	first.authenticated()
	first.release()
	first.release()
	first.authenticated()
	if g.open != 1 || g.unauthenticated != 1 || g.clients[client] != 1 {
		t.Errorf("one slot is left: open %d, unauthenticated %d, of the client %d", g.open, g.unauthenticated, g.clients[client])
	}
	second.release()
	second.authenticated()
	if g.open != 0 || g.unauthenticated != 0 || len(g.clients) != 0 {
		t.Errorf("no slot is left: open %d, unauthenticated %d, clients %v", g.open, g.unauthenticated, g.clients)
	}
}
