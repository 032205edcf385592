package server

import (
	"net/netip"
	"sync"
)

// A gate counts connections and keeps the counts below their limits. It is
// used by many goroutines at once.
type gate struct {
	mu        sync.Mutex
	open      int
	strangers int // not logged in, and from where nobody has
	clients   map[netip.Prefix]int
	guests    clientSet // from where somebody has logged in
}

// A ticket is one connection's place behind a gate.
type ticket struct {
	gate     *gate
	client   netip.Prefix
	stranger bool
	gone     bool
}

// enter admits a connection, or says which limit is in the way. A limit of
// zero is none. The limit for those who have not logged in is not for clients
// from where somebody has before: who fills these places, however many
// addresses he has, keeps no user out that the server knows. Nor do they take
// one of these places.
func (g *gate) enter(client netip.Prefix, l Limits) (t *ticket, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	stranger := !g.guests.has(client)
	switch {
	case over(g.open, l.Connections):
		return nil, "too many connections"
	case stranger && over(g.strangers, l.Unauthenticated):
		return nil, tooManyStrangers
	case over(g.clients[client], l.ConnectionsPerClient):
		return nil, "too many connections from this client"
	}
	if g.clients == nil {
		g.clients = make(map[netip.Prefix]int)
	}
	g.open++
	if stranger {
		g.strangers++
	}
	g.clients[client]++
	return &ticket{gate: g, client: client, stranger: stranger}, ""
}

const tooManyStrangers = "too many connections that have not logged in"

func over(n, limit int) bool { return limit > 0 && n >= limit }

// admit says that the connection is no stranger any more.
func (t *ticket) admit() {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	if t.stranger && !t.gone {
		t.gate.strangers--
	}
	t.stranger = false
}

// remember says that somebody has logged in from there.
func (t *ticket) remember() {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.gate.guests.add(t.client)
}

// leave gives the place back; a second call does nothing.
func (t *ticket) leave() {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.gone {
		return
	}
	t.gone = true
	g.open--
	if t.stranger {
		g.strangers--
	}
	if g.clients[t.client]--; g.clients[t.client] == 0 {
		delete(g.clients, t.client)
	}
}

// clientPrefix is what counts as one client: an IPv4 address, or the /64 that
// one IPv6 customer has at the least.
func clientPrefix(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // of the zero Addr: the zero Prefix
	return p
}

// clientSetHalf is half of what a clientSet holds, at some 50 bytes each.
const clientSetHalf = 1 << 15

// A clientSet remembers clients, in two halves: when the young one is full, the
// old one is forgotten.
type clientSet struct {
	young, old map[netip.Prefix]struct{}
}

func (s *clientSet) has(client netip.Prefix) bool {
	if _, ok := s.young[client]; ok {
		return true
	}
	_, ok := s.old[client]
	return ok
}

func (s *clientSet) add(client netip.Prefix) {
	if s.young == nil || len(s.young) >= clientSetHalf {
		s.old, s.young = s.young, make(map[netip.Prefix]struct{})
	}
	s.young[client] = struct{}{}
}
