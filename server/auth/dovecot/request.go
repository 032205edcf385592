package dovecot

import (
	"context"
	"errors"
	"time"

	"postern/server/auth"
)

// errTooLong is returned for a message that does not fit in a line. Dovecot would
// close the connection, which other exchanges share, if it were sent.
var errTooLong = &auth.Failure{Kind: auth.Unknowable, Store: Kind, Reason: "the message is longer than a line of Dovecot's protocol"}

// A request is one exchange on a connection. Its methods are called by one
// goroutine at a time, but for cancel, which may come at any time.
type request struct {
	conn    *conn
	id      uint32
	answers chan answer // holds one

	// Guarded by conn.mu.
	sent    bool // Dovecot knows of it
	waiting bool // for an answer
}

// ask sends a message of the client and waits for the answer to it.
func (r *request) ask(ctx context.Context, line []byte) (answer, error) {
	if len(line) >= r.conn.greeting.maxLine() {
		return answer{}, errTooLong
	}
	since := time.Now()
	r.send(line)
	select {
	case a := <-r.answers:
		return a, nil
	case <-r.conn.done:
		return r.lastAnswer()
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			r.conn.retireIfSilent(since)
		}
		return answer{}, context.Cause(ctx)
	}
}

// send queues the line, unless Dovecot has ended the exchange meanwhile: its
// FAIL is the answer then.
func (r *request) send(line []byte) {
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	if _, open := r.conn.requests[r.id]; open {
		r.sent, r.waiting = true, true
		r.conn.send(line)
	}
}

// lastAnswer is what came before the connection ended.
func (r *request) lastAnswer() (answer, error) {
	select {
	case a := <-r.answers:
		return a, nil
	default:
		return answer{}, r.conn.err // was set before done was closed
	}
}

// take accepts an answer, with conn.mu held. Nothing is accepted that was not
// asked for, but a FAIL: Dovecot may give up on an exchange.
func (r *request) take(a answer) bool {
	if !r.waiting && a.verb != verbFail {
		return false
	}
	r.waiting = false
	select {
	case <-r.answers: // a challenge that is not waited for any more
	default:
	}
	r.answers <- a
	if a.verb != verbCont {
		delete(r.conn.requests, r.id)
		r.conn.endIfEmpty()
	}
	return true
}

// cancel ends the request. If Dovecot has not ended it, Dovecot is
// sent CANCEL.
func (r *request) cancel() {
	c := r.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, open := c.requests[r.id]; !open {
		return
	}
	delete(c.requests, r.id)
	if r.sent {
		c.send(cancelLine(r.id))
	}
	c.endIfEmpty()
}
