package server

import (
	"context"
	"net/netip"

	"postern/internal/netprefix"
	"postern/internal/share"
	"postern/policy"
	"postern/server/auth"
	"postern/server/smtpd"
)

// slots are the places of a connection: in the whole server, and in its listener.
type slots [2]*slot

func (s slots) release() {
	for _, place := range s {
		place.release()
	}
}

func (s slots) progress() {
	for _, place := range s {
		place.progress()
	}
}

// classOf returns the class of a new connection, and the client that it counts for. Health
// checks count for no client: an address of the proxy may be that of a client, too.
func (s *handler) classOf(c *smtpd.Conn) (class, netip.Prefix) {
	client := netprefix.Client(c.Remote().Addr())
	switch {
	case s.proxied.unknown:
		return healthCheck, netip.Prefix{}
	case !s.parts.RequireAuth && s.parts.Policy.InMyNetworks(&policy.Request{Remote: c.Remote(), AtProxy: s.proxied.atProxy}):
		return trustedClient, client
	}
	return unauthenticated, client
}

// acquireSlots returns the slots of a connection, or the limit that is reached.
func (s *snapshot) acquireSlots(client netip.Prefix, c class) (all slots, reason string) {
	limiters := [2]*connLimiter{&s.server.limiter, &s.listener.limiter}
	limits := [2]bounds{s.config.Limits.bounds(true), s.parts.Limits.bounds(s.parts.RequireAuth)}
	for i, limiter := range limiters {
		place, dropped, reason := limiter.acquire(client, c, limits[i])
		if dropped != nil {
			dropped.events.Dropped(reason, "")
			dropped.slots.release()
		}
		if place == nil {
			if i > 0 {
				all[0].release()
			}
			return slots{}, reason
		}
		all[i] = place
	}
	return all, ""
}

// refusalBounds bound the connections that are refused inside TLS at the same time.
var refusalBounds = Limits{Connections: 64, ConnectionsPerClient: 2}.bounds(false)

// refuse returns the reply to a connection above a limit. Inside TLS it costs a
// handshake, so only a few clients receive it; to the others the connection is
// closed at once, which mail clients report as a problem with the certificate.
func (s *snapshot) refuse(ctx context.Context, c *smtpd.Conn) *smtpd.Reply {
	if s.parts.Mode == TLS {
		slot, _, _ := s.server.refused.acquire(netprefix.Client(c.Remote().Addr()), unauthenticated, refusalBounds)
		if slot == nil {
			c.Abort(smtpd.ErrClosed)
		} else {
			context.AfterFunc(ctx, slot.release)
		}
	}
	return replyTooManyConnections
}

// logIn ends the limits that hold before authentication, and counts the connection as one of
// the user's. If the user has too many, it returns the reply instead.
func (s *session) logIn(id auth.Identity) *smtpd.Reply {
	user := share.User(s.parts.Users, id.User)
	limits := [2]int{s.config.Limits.ConnectionsPerUser, s.parts.Limits.ConnectionsPerUser}
	for i, place := range s.slots {
		closed, ok := place.logIn(user, limits[i])
		for _, other := range closed {
			other.events.Dropped(tooManyOfUser, id.User)
		}
		if !ok {
			s.reported = true
			s.events.TooManyOfUser(id.User)
			return replyTooManyOfUser
		}
	}
	s.conn.Authenticated()
	s.identity, s.loggedIn, s.attempts = id, true, 0
	return nil
}
