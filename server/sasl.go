package server

import (
	"errors"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"postern/server/auth"
)

// AuthMechanisms is what EHLO offers. Before TLS there is nothing to offer
// (RFC 4954, section 4).
func (s *session) AuthMechanisms() []string {
	if s.tls == nil {
		return nil
	}
	return s.auth.Mechanisms(s.peer())
}

func (s *session) peer() *auth.Peer {
	return &auth.Peer{
		Remote: s.conn.remote, Local: s.conn.local,
		Helo: s.smtp.Hostname(), TLS: s.tls, Session: s.conn.id,
		Certificate: s.conn.shown.Load(),
	}
}

// Auth begins an exchange. An attempt counts from here, since go-smtp tells
// nobody of a client that cancels with "*" or goes away in the middle; only
// success takes it back.
func (s *session) Auth(mech string) (sasl.Server, error) {
	s.closeExchange()
	switch {
	case s.tls == nil:
		return nil, s.refuse("AUTH", nil, "", replyNeedTLS, nil)
	case s.loggedIn:
		// RFC 4954, section 4: once is enough.
		return nil, s.refuse("AUTH", nil, "", replyAuthTwice, nil)
	case s.current() != nil:
		// RFC 4954, section 4: not during a mail transaction.
		return nil, s.refuse("AUTH", s.current(), "", replyAuthInMail, nil)
	case s.attempts >= s.authFailures:
		s.conn.hangUp(tooManyFailures)
		return nil, replyClosing
	}
	x, err := s.service.auth.Start(s.conn.ctx, s.peer(), mech)
	if errors.Is(err, auth.ErrMechanism) {
		return nil, s.refuse("AUTH", nil, "", replyMechanism, nil)
	}
	s.attempts++
	if err != nil {
		return nil, s.authFailed(mech, err)
	}
	e := &exchange{session: s, mech: mech, Exchange: x}
	s.mu.Lock()
	s.exchange = e
	s.mu.Unlock()
	return e, nil
}

// An exchange is what go-smtp drives during AUTH.
type exchange struct {
	auth.Exchange
	session *session
	mech    string
}

// Next hands on the client's response and turns the outcome into a reply.
func (e *exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	stop := e.session.conn.watch() // it may take as long as a penalty does
	challenge, done, err = e.Exchange.Next(e.session.conn.ctx, response)
	stop()
	switch {
	case err != nil:
		e.session.closeExchange()
		return nil, false, e.session.authFailed(e.mech, err)
	case done:
		e.session.authenticated(e.Identity())
		// As an error, or go-smtp would say 2.0.0.
		return nil, false, replyAuthenticated
	}
	return challenge, false, nil
}

// authenticated is called at most once: Auth refuses a second exchange.
func (s *session) authenticated(id auth.Identity) {
	s.closeExchange()
	s.identity, s.loggedIn, s.attempts = id, true, 0
	s.conn.login()
	s.log.authOK(id, s.tls)
}

// authFailed logs the failure, hangs up after too many, and returns what the
// client hears.
func (s *session) authFailed(mech string, err error) *smtp.SMTPError {
	if s.conn.ctx.Err() != nil {
		s.log.authAbandoned(mech) // whatever err makes of that
	} else {
		s.log.authError(mech, err)
	}
	s.conn.explained.Store(true)
	if s.attempts >= s.authFailures {
		s.conn.hangUp(tooManyFailures)
	}
	return authReply(err)
}

// closeExchange closes the exchange under way, if any: at its end, and at the
// next command when the client has abandoned it.
func (s *session) closeExchange() {
	s.mu.Lock()
	e := s.exchange
	s.exchange = nil
	s.mu.Unlock()
	if e != nil {
		_ = e.Close()
	}
}
