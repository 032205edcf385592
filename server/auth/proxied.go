package auth

import "time"

// What follows is for exchanges that a backend runs by itself, where this
// package sees no password and several messages may go back and forth.

// Yield gives the turn back without an outcome: the exchange goes on, but it is
// the client's move, and others from its address are not to wait for it. Enter
// takes a new turn when the client has answered. It is called instead of Leave.
func (a *Attempt) Yield() {
	if a.penalty == nil {
		return
	}
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	a.penalty.quit(a.turn, t.places)
	t.put(a.from, a.penalty, time.Now())
}

// WithLogin returns the error of a backend as a *Failure or an *Unavailable that
// names the login, made safe for a log line. The backend's own value is left as
// it is. ErrMechanism and ErrMalformed are the caller's: they name nobody.
func WithLogin(err error, login string) error { return withLogin(err, login) }
