package server

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"postern/internal/netprefix"
	"postern/server/smtpd"
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

// acquireSlots returns the slots of a connection, or the limit that is reached.
func (s *snapshot) acquireSlots(client netip.Prefix) (all slots, reason string) {
	server, reason := s.server.limiter.acquire(client, s.config.Limits)
	if reason == tooManyUnauthenticated && s.server.dropOldestUnauthenticated() {
		server, reason = s.server.limiter.acquire(client, s.config.Limits)
	}
	if reason != "" {
		return slots{}, reason
	}
	own, reason := s.listener.limiter.acquire(client, s.parts.Limits)
	if reason != "" {
		server.release()
		return slots{}, reason
	}
	return slots{server, own}, ""
}

// refusalLimits bound the connections that are refused inside TLS at the same time.
var refusalLimits = Limits{Connections: 64, ConnectionsPerClient: 2}

// refuse returns the reply to a connection above a limit. Inside TLS it costs a
// handshake, so only a few clients receive it; to the others the connection is
// closed at once, which mail clients report as a problem with the certificate.
func (s *snapshot) refuse(ctx context.Context, c *smtpd.Conn) *smtpd.Reply {
	if s.parts.Mode == TLS {
		slot, _ := s.server.refused.acquire(netprefix.Client(c.Remote().Addr()), refusalLimits)
		if slot == nil {
			c.Abort(smtpd.ErrClosed)
		} else {
			context.AfterFunc(ctx, slot.release)
		}
	}
	return replyTooManyConnections
}

// admit ends the limits that hold before authentication. From now on the session is not
// dropped to make room.
func (s *session) admit(loggedIn bool) {
	s.conn.Authenticated()
	for _, slot := range s.slots {
		slot.authenticated(loggedIn)
	}
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if place := s.server.sessions[s]; place != nil {
		s.server.unauthenticated.Remove(place)
		s.server.sessions[s] = nil
	}
}

// minStay is how long an unauthenticated session is safe: enough time to log in.
const minStay = 5 * time.Second

var errDropped = errors.New("server: dropped to make room for another client")

// dropOldestUnauthenticated makes room for a client by ending the connection that has
// gone without a login for longest. Otherwise connections that do nothing could keep
// every new client out.
func (s *Server) dropOldestUnauthenticated() bool {
	oldest := s.abortOldestUnauthenticated()
	if oldest == nil {
		return false
	}
	oldest.events.Dropped()
	oldest.slots.release()
	return true
}

// abortOldestUnauthenticated works under the lock that admit waits for: a
// client that logs in at this moment is past it and stays, or does not receive 235.
func (s *Server) abortOldestUnauthenticated() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	place := s.unauthenticated.Front()
	if place == nil {
		return nil
	}
	oldest := place.Value.(*session)
	if time.Since(oldest.begun) < minStay {
		return nil
	}
	s.unauthenticated.Remove(place) // or a concurrent call would count on the same one
	s.sessions[oldest] = nil
	oldest.conn.Abort(errDropped)
	return oldest
}
