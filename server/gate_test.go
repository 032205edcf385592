package server

import (
	"net/netip"
	"testing"
)

func TestGate(t *testing.T) {
	one, other := clientPrefix(netip.MustParseAddr("192.0.2.1")), clientPrefix(netip.MustParseAddr("192.0.2.2"))
	const (
		all    = "too many connections"
		guests = "too many connections that have not logged in"
		client = "too many connections from this client"
	)
	tests := []struct {
		name   string
		limits Limits
		before func(*gate)
		reason string
	}{
		{"empty", Limits{Connections: 1, ConnectionsPerClient: 1, Unauthenticated: 1}, func(*gate) {}, ""},
		{"zero is no limit", Limits{}, func(g *gate) { g.enter(one, Limits{}) }, ""},
		{"full", Limits{Connections: 2}, func(g *gate) { g.enter(one, Limits{}); g.enter(other, Limits{}) }, all},
		{"client", Limits{ConnectionsPerClient: 1}, func(g *gate) { g.enter(one, Limits{}) }, client},
		{"another client", Limits{ConnectionsPerClient: 1}, func(g *gate) { g.enter(other, Limits{}) }, ""},
		{"strangers", Limits{Unauthenticated: 1}, func(g *gate) { g.enter(other, Limits{}) }, guests},
		{"logged in", Limits{Unauthenticated: 1}, func(g *gate) {
			ticket, _ := g.enter(other, Limits{})
			ticket.admit()
		}, ""},
		{"strangers, and one who has logged in before", Limits{Unauthenticated: 1}, func(g *gate) {
			ticket, _ := g.enter(one, Limits{})
			ticket.remember()
			ticket.leave()
			g.enter(other, Limits{})
		}, ""},
		{"strangers, and one who was only admitted before", Limits{Unauthenticated: 1}, func(g *gate) {
			ticket, _ := g.enter(one, Limits{})
			ticket.admit()
			ticket.leave()
			g.enter(other, Limits{})
		}, guests},
		{"no stranger, but others of one who has logged in before", Limits{Unauthenticated: 1}, func(g *gate) {
			ticket, _ := g.enter(other, Limits{})
			ticket.remember()
			ticket.leave()
			g.enter(other, Limits{})
			g.enter(other, Limits{})
		}, ""},
		{"strangers, and one who has not logged in before", Limits{Unauthenticated: 1}, func(g *gate) {
			ticket, _ := g.enter(one, Limits{})
			ticket.leave()
			g.enter(other, Limits{})
		}, guests},
		{"left", Limits{Connections: 1, ConnectionsPerClient: 1, Unauthenticated: 1}, func(g *gate) {
			ticket, _ := g.enter(one, Limits{})
			ticket.leave()
		}, ""},
	}
	for _, test := range tests {
		var g gate
		test.before(&g)
		ticket, reason := g.enter(one, test.limits)
		if reason != test.reason || (ticket == nil) != (reason != "") {
			t.Errorf("%s: enter = %v, %q", test.name, ticket, reason)
		}
	}
}

// TestClientSet: who has been seen of late is known, and memory is bounded.
func TestClientSet(t *testing.T) {
	client := func(i int) netip.Prefix {
		return clientPrefix(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	var s clientSet
	const most = 3 * clientSetHalf
	for i := range most {
		s.add(client(i))
	}
	if s.has(client(0)) || !s.has(client(most-clientSetHalf)) || !s.has(client(most-1)) {
		t.Error("the wrong ones are forgotten")
	}
	if n := len(s.young) + len(s.old); n > 2*clientSetHalf {
		t.Errorf("%d clients are remembered", n)
	}
}

// TestGateAccount: whatever comes in whatever order, a place is given back once.
func TestGateAccount(t *testing.T) {
	var g gate
	client := clientPrefix(netip.MustParseAddr("2001:db8::1"))
	first, _ := g.enter(client, Limits{})
	second, _ := g.enter(client, Limits{})
	first.admit()
	first.admit()
	first.leave()
	first.leave()
	first.admit()
	if g.open != 1 || g.strangers != 1 || g.clients[client] != 1 {
		t.Errorf("one is left: open %d, strangers %d, of the client %d", g.open, g.strangers, g.clients[client])
	}
	second.leave()
	second.admit()
	if g.open != 0 || g.strangers != 0 || len(g.clients) != 0 {
		t.Errorf("none is left: open %d, strangers %d, clients %v", g.open, g.strangers, g.clients)
	}
}

func TestClientPrefix(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":           "192.0.2.1/32",
		"2001:db8:1:2:3:4::5": "2001:db8:1:2::/64",
		"fe80::1%eth0":        "fe80::/64",
	} {
		if got := clientPrefix(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("clientPrefix(%s) = %s", addr, got)
		}
	}
	if got := clientPrefix(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("of no address: %v", got)
	}
}
