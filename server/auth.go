package server

import (
	"context"
	"errors"

	"postern/server/auth"
	"postern/server/smtpd"
)

func (s *session) peer() *auth.Peer {
	helo, _ := s.conn.Hello()
	return &auth.Peer{
		Remote: s.conn.Remote(), Local: s.conn.Local(),
		Helo: helo, TLS: s.tls, Session: s.conn.ID(),
		Certificate: s.conn.Certificate(),
	}
}

// Auth implements smtpd.Session. An attempt counts from here, since a client may
// cancel it or go away in the middle; only success takes it back.
func (s *session) Auth(ctx context.Context, mechanism string) (smtpd.Exchange, *smtpd.Reply) {
	if s.attempts >= s.parts.AuthFailures {
		return nil, replyTooManyFailures
	}
	x, err := s.acquire().Auth.Start(ctx, s.peer(), mechanism)
	if err != nil {
		s.releaseServices()
	}
	if errors.Is(err, auth.ErrMechanism) {
		return nil, replyMechanism
	}
	s.attempts++
	if err != nil {
		return nil, s.authFailed(ctx, mechanism, err)
	}
	return &exchange{Exchange: x, session: s, mechanism: mechanism}, nil
}

// An exchange is an [smtpd.Exchange] over one of package auth.
type exchange struct {
	auth.Exchange
	session   *session
	mechanism string
}

// Next implements smtpd.Exchange.
func (e *exchange) Next(ctx context.Context, response []byte) ([]byte, *smtpd.Reply) {
	challenge, done, err := e.Exchange.Next(ctx, response)
	switch {
	case err != nil:
		return nil, e.session.authFailed(ctx, e.mechanism, err)
	case done:
		e.session.authenticated(e.Identity())
		return nil, replyAuthenticated
	}
	return challenge, nil
}

// Close implements smtpd.Exchange.
func (e *exchange) Close(error) {
	defer e.session.releaseServices()
	_ = e.Exchange.Close()
}

func (s *session) authenticated(id auth.Identity) {
	s.identity, s.loggedIn, s.attempts = id, true, 0
	s.admit()
	s.slots.remember()
	s.events.AuthOK(id, s.tls)
}

// authFailed logs the failure and returns the reply. The connection is closed after
// too many.
func (s *session) authFailed(ctx context.Context, mechanism string, err error) *smtpd.Reply {
	s.reported = true
	if errors.Is(ctx.Err(), context.Canceled) {
		s.events.AuthAbandoned(mechanism) // whatever err is
	} else {
		s.events.AuthError(mechanism, err)
	}
	if s.attempts >= s.parts.AuthFailures {
		s.conn.CloseAfterReply(replyTooManyFailures)
	}
	return authReply(err)
}
