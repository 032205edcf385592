package server

import (
	"context"
	"errors"
	"sync/atomic"

	"postern/server/auth"
	"postern/server/smtpd"
)

// A hold counts the users of Services that were acquired once: the session, and the
// verifications that continue after their client has hung up.
type hold struct {
	users atomic.Int32
	free  func()
}

func newHold(free func()) *hold {
	h := &hold{free: free}
	h.users.Store(1)
	return h
}

func (h *hold) acquire() { h.users.Add(1) }

func (h *hold) release() {
	if h.users.Add(-1) == 0 {
		h.free()
	}
}

// background returns what a verification of this exchange needs, which may outlive the
// session. The services are those that the session holds now.
func (s *session) background(mechanism string) *auth.Background {
	held, events := s.hold, s.events
	return &auth.Background{
		Context: s.server.verifying,
		Hold: func() func() {
			held.acquire()
			s.server.beginVerification()
			return func() {
				held.release()
				s.server.endVerification()
			}
		},
		Report: func(id auth.Identity, err error) {
			var p *auth.Panic
			var f *auth.Failure
			var u *auth.Unavailable
			switch {
			case errors.As(err, &p):
				events.Panicked(panicOf(&smtpd.PanicError{Value: p}))
			case errors.As(err, &f), errors.As(err, &u):
				events.AuthError(mechanism, err, true)
			default: // also auth.ErrAbandoned
				events.AuthAbandoned(mechanism, id.User)
			}
		},
	}
}

// panicOf returns the panic of a verification, with the stack of its own goroutine. Any other
// panic is returned as it is.
func panicOf(p *smtpd.PanicError) *smtpd.PanicError {
	if inner, ok := p.Value.(*auth.Panic); ok {
		return &smtpd.PanicError{Value: inner.Value, Stack: inner.Stack}
	}
	return p
}

// abandoned reports whether an AUTH that ended with err has no outcome because the client has
// hung up, or because the server is shutting down. A verdict that arrives at the same moment
// is one.
func abandoned(ctx context.Context, err error) bool {
	if errors.Is(err, auth.ErrAbandoned) {
		return true
	}
	if _, refused := errors.AsType[*auth.Failure](err); refused || !errors.Is(ctx.Err(), context.Canceled) {
		return false
	}
	u, ok := errors.AsType[*auth.Unavailable](err)
	return !ok || !u.Unanswered && u.Refused == nil
}
