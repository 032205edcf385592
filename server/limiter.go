package server

import (
	"container/list"
	"errors"
	"net/netip"
	"sync"
	"time"

	"postern/internal/share"
)

// A class is what is known of the client of a connection. Each class has a share of the
// connections, so no class can keep out the others.
type class uint8

const (
	unauthenticated class = iota // not logged in
	knownClient                  // not logged in, but a login from its address has succeeded before
	trustedClient                // in mynetworks, on a listener that requires no login
	healthCheck                  // a proxy does not name it
	authenticated
	classes
)

// tooMany are the reasons for refusing or dropping a connection of a class.
var tooMany = [classes]string{
	unauthenticated: "too many connections that have not logged in",
	knownClient:     "too many connections that have not logged in, from addresses with earlier logins",
	trustedClient:   "too many connections from mynetworks that have not logged in",
	healthCheck:     "too many connections for which the proxy names no client",
}

const (
	tooManyConnections = "too many connections"
	tooManyOfClient    = "too many connections from this client"
	tooManyOfUser      = "too many connections of this user"
)

// bounds are the limits that a connLimiter enforces. Zero is no limit.
type bounds struct {
	total, ofClient int
	ofClass         [classes]int
}

// bounds returns the limits on connections. With quarters, each class without a login has
// at most a quarter of all connections, so that one is left for those that have logged in.
// A listener that requires no login has none.
func (l Limits) bounds(quarters bool) bounds {
	b := bounds{total: l.Connections, ofClient: l.ConnectionsPerClient}
	b.ofClass[unauthenticated], b.ofClass[trustedClient] = l.Unauthenticated, l.Unauthenticated
	b.ofClass[healthCheck] = l.ConnectionsPerClient
	if quarters && l.Connections > 0 {
		quarter := max(l.Connections/4, 1)
		for c := range authenticated {
			if b.ofClass[c] == 0 || b.ofClass[c] > quarter {
				b.ofClass[c] = quarter
			}
		}
	}
	return b
}

// A connLimiter counts open connections and keeps the counts below their limits.
// Any goroutine may use it.
type connLimiter struct {
	mu      sync.Mutex
	open    int
	counts  [classes]int
	waiting [classes]list.List // *slot that may be dropped, the one without progress for longest first
	clients map[netip.Prefix]int
	users   map[share.Owner]*list.List // *slot that has logged in, the one without progress for longest first
	known   clientSet                  // where a login has succeeded
}

// A slot is the place of one connection.
type slot struct {
	limiter  *connLimiter
	client   netip.Prefix
	class    class
	released bool

	session *session      // nil until canDrop
	since   time.Time     // the beginning, or the last accepted message
	waiting *list.Element // in limiter.waiting
	user    share.Owner
	ofUser  *list.Element // in limiter.users
}

// acquire returns a slot, which must be released once, or the limit that is reached. To make
// room, it may drop another connection: then its session is returned, too, for the caller to
// report and release.
//
// If there is no room in the class, the connection of the class is dropped that has made no
// progress for longest; if there is no room at all, an unauthenticated one, or one of the
// same class. So connections that do nothing, or next to nothing, keep nobody out, and an
// attacker that fills the share of unauthenticated clients, from however many addresses,
// keeps no known client out.
func (g *connLimiter) acquire(client netip.Prefix, c class, b bounds) (s *slot, dropped *session, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c == unauthenticated && g.known.has(client) {
		c = knownClient
	}
	var victim *slot
	switch {
	case c != healthCheck && reached(g.clients[client], b.ofClient):
		reason = tooManyOfClient
	case reached(g.counts[c], b.ofClass[c]):
		victim, reason = g.oldest(c), tooMany[c]
	case reached(g.open, b.total):
		victim, reason = g.oldest(unauthenticated), tooManyConnections
		if victim == nil {
			victim = g.oldest(c)
		}
	}
	switch {
	case victim != nil:
		dropped = victim.session
		dropped.conn.Abort(errDropped) // logIn waits for mu: either the client stays, or it does not receive 235
		g.remove(victim)
	case reason != "":
		return nil, nil, reason
	}
	return g.add(client, c), dropped, reason
}

func (g *connLimiter) add(client netip.Prefix, c class) *slot {
	if g.clients == nil {
		g.clients = make(map[netip.Prefix]int)
		g.users = make(map[share.Owner]*list.List)
	}
	g.open++
	g.counts[c]++
	g.clients[client]++
	return &slot{limiter: g, client: client, class: c, since: time.Now()}
}

func reached(n, limit int) bool { return limit > 0 && n >= limit }

// minStay is how long a connection without a login is safe: enough time to log in.
const minStay = 5 * time.Second

var errDropped = errors.New("server: dropped to make room for another client")

// oldest returns the slot of the class that has made no progress for longest and may be
// dropped, or nil. One for which the server is working is the last choice, because its
// message may be at the next hop already; a known client whose password is being verified
// is not dropped at all.
func (g *connLimiter) oldest(c class) (working *slot) {
	for e := g.waiting[c].Front(); e != nil; e = e.Next() {
		s := e.Value.(*slot)
		switch {
		case time.Since(s.since) < minStay:
			return working
		case !s.session.working.Load():
			return s
		case working == nil && c != knownClient:
			working = s
		}
	}
	return working
}

// canDrop allows the session to be dropped to make room for others, until logIn.
func (s *slot) canDrop(n *session) {
	g := s.limiter
	g.mu.Lock()
	defer g.mu.Unlock()
	s.session = n
	if !s.released {
		s.waiting = g.waiting[s.class].PushBack(s)
	}
}

// progress notes that a message of the connection was accepted.
func (s *slot) progress() {
	g := s.limiter
	g.mu.Lock()
	defer g.mu.Unlock()
	s.since = time.Now()
	if s.waiting != nil {
		g.waiting[s.class].MoveToBack(s.waiting)
	}
	if s.ofUser != nil {
		g.users[s.user].MoveToBack(s.ofUser)
	}
}

// logIn counts the connection as one of the user's, and its client as a known one. If the
// user has most connections already, those of its idle ones are closed that have made no
// progress for longest; the caller reports them. If none is idle, logIn reports false.
func (s *slot) logIn(user share.Owner, most int) (closed []*session, ok bool) {
	g := s.limiter
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.released { // it was dropped
		return nil, true
	}
	g.known.add(s.client)
	own := g.users[user]
	if own == nil {
		own = list.New()
		g.users[user] = own
	}
	var next *list.Element
	for e := own.Front(); e != nil && reached(own.Len(), most); e = next {
		next = e.Next()
		other := e.Value.(*slot)
		if other.session.conn.CloseIfIdle(replyUserIdle) {
			own.Remove(e)
			other.ofUser = nil
			closed = append(closed, other.session)
		}
	}
	if reached(own.Len(), most) {
		return closed, false
	}
	g.stopWaiting(s)
	g.counts[s.class]--
	s.class = authenticated
	g.counts[s.class]++
	s.user, s.ofUser = user, own.PushBack(s)
	return closed, true
}

// release gives the slot back. A further call does nothing.
func (s *slot) release() {
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	s.limiter.remove(s)
}

func (g *connLimiter) remove(s *slot) {
	if s.released {
		return
	}
	s.released = true
	g.stopWaiting(s)
	if s.ofUser != nil {
		own := g.users[s.user]
		own.Remove(s.ofUser)
		s.ofUser = nil
		if own.Len() == 0 {
			delete(g.users, s.user)
		}
	}
	g.open--
	g.counts[s.class]--
	if g.clients[s.client]--; g.clients[s.client] == 0 {
		delete(g.clients, s.client)
	}
}

func (g *connLimiter) stopWaiting(s *slot) {
	if s.waiting != nil {
		g.waiting[s.class].Remove(s.waiting)
		s.waiting = nil
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
