package dovecot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"postern/server/auth"
)

const (
	maxRequests = 4096             // open at once on a connection
	maxStrays   = 1000             // lines in a row that belong to no open request
	writeTime   = 10 * time.Second // for Dovecot to accept what is written
)

var (
	errBusy    = errors.New("too many exchanges with Dovecot are open at once")
	errStuck   = errors.New("dovecot does not read from the connection")
	errRetired = errors.New("the connection to Dovecot has been replaced by a new one")
)

// A conn is one connection after its greeting. Two goroutines belong to it, read and
// write; both return once it has ended. The other methods do not block on Dovecot.
type conn struct {
	net      net.Conn
	in       lineReader
	greeting *greeting
	wake     chan struct{} // holds one token if there are lines to write
	done     chan struct{} // closed at the end; err is set by then

	mu       sync.Mutex
	requests map[uint32]*request // the open ones
	last     uint32              // number of the newest request
	queue    [][]byte            // lines to write
	lastLine time.Time           // when the last line was received
	strays   int
	retired  bool // accepts no new requests
	err      error
}

// open begins a request. The caller must call cancel at its end.
func (c *conn) open(mech string) (*request, error) {
	// Dovecot closes the connection after a mechanism that it did not offer.
	if !offers(c.greeting.mechanisms, mech) {
		return nil, auth.ErrMechanism
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, c.err
	case c.retired:
		return nil, errRetired
	case len(c.requests) == maxRequests:
		return nil, errBusy
	}
	// A number is used only once, so that a late answer cannot belong to another
	// request: no connection lives long enough for 2^32 of them.
	c.last++
	r := &request{conn: c, id: c.last, answers: make(chan answer, 1)}
	c.requests[r.id] = r
	return r, nil
}

// usable reports whether requests can be opened.
func (c *conn) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && !c.retired
}

// retire makes the connection end after its open requests, and accept no new ones.
func (c *conn) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
	c.endIfEmpty()
}

// retireIfSilent retires a connection on which no line was received after since, when a
// request was sent that has now timed out. That request alone may be slow, but Dovecot
// may hang as well, and a new connection will show which.
func (c *conn) retireIfSilent(since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lastLine.Before(since) {
		c.retired = true
		c.endIfEmpty()
	}
}

// end closes the connection. Only the first cause is kept.
func (c *conn) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(cause)
}

func (c *conn) endLocked(cause error) {
	if c.err != nil {
		return
	}
	c.err = cause
	close(c.done)
	c.net.Close()
}

// endIfEmpty ends a retired connection without open requests. The caller holds the lock.
func (c *conn) endIfEmpty() {
	if c.retired && len(c.requests) == 0 {
		c.endLocked(errRetired)
	}
}

// send queues a line. The caller holds the lock.
func (c *conn) send(line []byte) {
	if len(c.queue) > 2*maxRequests {
		c.endLocked(errStuck)
		return
	}
	c.queue = append(c.queue, line)
	select {
	case c.wake <- struct{}{}:
	default: // the token is there already
	}
}

// write sends queued lines until the connection ends.
func (c *conn) write() {
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		c.mu.Lock()
		lines := net.Buffers(c.queue)
		c.queue = nil
		c.mu.Unlock()
		_ = c.net.SetWriteDeadline(time.Now().Add(writeTime)) // an error shows at the write
		if _, err := lines.WriteTo(c.net); err != nil {
			c.end(fmt.Errorf("%w: %w", errStuck, err))
			return
		}
	}
}

// read dispatches lines until the connection ends.
func (c *conn) read() {
	for {
		fields, err := c.in.next()
		if err == nil {
			err = c.dispatch(fields)
		}
		if err != nil {
			c.end(fmt.Errorf("connection to Dovecot lost: %w", err))
			return
		}
	}
}

// dispatch passes an answer to its request. It returns an error if the connection cannot
// be trusted any more.
func (c *conn) dispatch(fields []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastLine = time.Now()
	if !slices.Contains([]string{verbOK, verbCont, verbFail}, fields[0]) {
		return c.countStray()
	}
	a, err := parseAnswer(fields)
	if err != nil {
		return err
	}
	r, open := c.requests[a.id]
	switch {
	case open && !r.accept(a):
		return fmt.Errorf("%w: unexpected %s", errProtocol, a.verb)
	case open:
		c.strays = 0
		return nil
	case a.id == 0 || a.id > c.last:
		return fmt.Errorf("%w: %s with a number that was never used", errProtocol, a.verb)
	}
	return c.countStray() // a late answer to a cancelled request
}

// countStray counts a line that belongs to no open request. The caller holds the lock.
func (c *conn) countStray() error {
	if c.strays++; c.strays > maxStrays {
		return fmt.Errorf("%w: %d lines in a row that answer no request", errProtocol, maxStrays)
	}
	return nil
}

// errTooLong is the error of a message that does not fit in a line. Dovecot would close
// the connection, which other exchanges share, if it were sent.
var errTooLong = &auth.Failure{Kind: auth.Unknowable, Store: Kind, Reason: "the message is longer than a line of Dovecot's protocol"}

// A request is one exchange on a connection. Its methods are called by one goroutine at
// a time, except for cancel, which any goroutine may call at any time.
type request struct {
	conn    *conn
	id      uint32
	answers chan answer // holds one

	// Guarded by conn.mu.
	sent    bool // AUTH was queued
	waiting bool // for an answer
}

// ask sends a message of the client and waits for the answer.
func (r *request) ask(ctx context.Context, line []byte) (answer, error) {
	if len(line) >= r.conn.greeting.maxLine() {
		return answer{}, errTooLong
	}
	since := time.Now()
	r.conn.mu.Lock()
	// If Dovecot has ended the exchange meanwhile, its FAIL is the answer.
	if _, open := r.conn.requests[r.id]; open {
		r.sent, r.waiting = true, true
		r.conn.send(line)
	}
	r.conn.mu.Unlock()
	select {
	case a := <-r.answers:
		return a, nil
	case <-r.conn.done:
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			r.conn.retireIfSilent(since)
		}
		return answer{}, context.Cause(ctx)
	}
	select {
	case a := <-r.answers: // received before the connection ended
		return a, nil
	default:
		return answer{}, r.conn.err // was set before done was closed
	}
}

// accept stores an answer, with conn.mu held. It returns false for an unexpected one.
// Only a FAIL may be unexpected, since Dovecot may end an exchange at any time.
func (r *request) accept(a answer) bool {
	if !r.waiting && a.verb != verbFail {
		return false
	}
	r.waiting = false
	select {
	case <-r.answers: // drop a challenge that no caller waits for any more
	default:
	}
	r.answers <- a
	if a.verb != verbCont {
		delete(r.conn.requests, r.id)
		r.conn.endIfEmpty()
	}
	return true
}

// cancel ends the request, with CANCEL to Dovecot if the exchange is still open there.
func (r *request) cancel() {
	c := r.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, open := c.requests[r.id]; !open {
		return
	}
	delete(c.requests, r.id)
	if r.sent {
		c.send(newLine("CANCEL", number(r.id)).end())
	}
	c.endIfEmpty()
}
