package server

import (
	"net/netip"
	"sync"
)

// A connLimiter counts open connections and keeps the counts below their limits.
// Any goroutine may use it.
type connLimiter struct {
	mu              sync.Mutex
	open            int
	unauthenticated int // not logged in, and from an address where no login has succeeded
	clients         map[netip.Prefix]int
	known           clientSet // where a login has succeeded
}

// A slot is the place of one connection.
type slot struct {
	limiter         *connLimiter
	client          netip.Prefix
	unauthenticated bool
	released        bool
}

// tooManyUnauthenticated is the reason that dropOldestUnauthenticated can do something about.
const tooManyUnauthenticated = "too many connections that have not logged in"

// acquire returns a slot, which must be released once, or the limit that is
// reached. A limit of zero is none. The limit for connections that have not logged
// in spares known clients, and these do not count towards it: an attacker that fills
// it, from however many addresses, keeps no known client out.
func (g *connLimiter) acquire(client netip.Prefix, l Limits) (s *slot, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	unauthenticated := !g.known.has(client)
	switch {
	case reached(g.open, l.Connections):
		return nil, "too many connections"
	case unauthenticated && reached(g.unauthenticated, l.Unauthenticated):
		return nil, tooManyUnauthenticated
	case reached(g.clients[client], l.ConnectionsPerClient):
		return nil, "too many connections from this client"
	}
	if g.clients == nil {
		g.clients = make(map[netip.Prefix]int)
	}
	g.open++
	if unauthenticated {
		g.unauthenticated++
	}
	g.clients[client]++
	return &slot{limiter: g, client: client, unauthenticated: unauthenticated}, ""
}

func reached(n, limit int) bool { return limit > 0 && n >= limit }

// authenticated notes that the connection does not count as unauthenticated any more, and,
// if a login has succeeded, that its client is a known one.
func (s *slot) authenticated(loggedIn bool) {
	g := s.limiter
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.unauthenticated && !s.released {
		g.unauthenticated--
	}
	s.unauthenticated = false
	if loggedIn {
		g.known.add(s.client)
	}
}

// release gives the slot back. A further call does nothing.
func (s *slot) release() {
	g := s.limiter
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.released {
		return
	}
	s.released = true
	g.open--
	if s.unauthenticated {
		g.unauthenticated--
	}
	if g.clients[s.client]--; g.clients[s.client] == 0 {
		delete(g.clients, s.client)
	}
}

// slots are the places of a connection: in the whole server, and in its listener.
type slots [2]*slot

func (s slots) release() {
	for _, place := range s {
		place.release()
	}
}

// clientSetHalf is half of what a clientSet holds, at some 50 bytes each.
const clientSetHalf = 1 << 15

// A clientSet remembers clients, in two generations: when the young one is full, the
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
