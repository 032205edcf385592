package dovecot

import (
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
	maxStrays   = 1000             // lines in a row that answer nothing
	writeTime   = 10 * time.Second // for Dovecot to take what it is sent
)

var (
	errBusy    = errors.New("too many exchanges with Dovecot are open at once")
	errStuck   = errors.New("dovecot does not read what it is sent")
	errRetired = errors.New("the connection to Dovecot has been replaced by a new one")
)

// A conn is one connection after its greeting. Two goroutines belong to it,
// read and write; both return once it has ended. Its other methods do not wait
// for Dovecot.
type conn struct {
	net      net.Conn
	in       lineReader
	greeting *greeting
	wake     chan struct{} // holds one token when there are lines to write
	done     chan struct{} // closed at the end; err is set by then

	mu       sync.Mutex
	requests map[uint32]*request // the open ones
	last     uint32              // number of the newest request
	queue    [][]byte            // lines to write
	heard    time.Time           // when the last line came
	strays   int
	retired  bool // takes no new requests
	err      error
}

func newConn(n net.Conn, in lineReader, g *greeting) *conn {
	return &conn{
		net: n, in: in, greeting: g,
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		requests: make(map[uint32]*request),
	}
}

// open begins a request. Whoever opens one cancels it, too, when it is over.
func (c *conn) open(mech string) (*request, error) {
	// Dovecot hangs up on one who names a mechanism that it did not offer.
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
	// A number is not used twice, so that a late answer cannot meet another
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

// retire lets the open requests end and takes no new ones.
func (c *conn) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
	c.endIfEmpty()
}

// retireIfSilent retires a connection on which nothing has been heard since a
// request was sent whose time is over. It may be that this one takes long. But
// Dovecot may as well hang, and a new connection will show.
func (c *conn) retireIfSilent(since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard.Before(since) {
		c.retired = true
		c.endIfEmpty()
	}
}

// end closes the connection. Only the first cause counts.
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

// endIfEmpty ends a retired connection that has served its last request. The
// caller holds the lock.
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
	default: // is awake
	}
}

// write sends what is queued, until the end.
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

// read takes lines until the end.
func (c *conn) read() {
	for {
		fields, err := c.in.next()
		if err == nil {
			err = c.take(fields)
		}
		if err != nil {
			c.end(fmt.Errorf("connection to Dovecot lost: %w", err))
			return
		}
	}
}

// take hands an answer to the request that waits for it. It returns an error if
// the connection is not to be believed any more.
func (c *conn) take(fields []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = time.Now()
	if !slices.Contains([]string{verbOK, verbCont, verbFail}, fields[0]) {
		return c.stray()
	}
	a, err := parseAnswer(fields)
	if err != nil {
		return err
	}
	r, open := c.requests[a.id]
	switch {
	case open && !r.take(a):
		return fmt.Errorf("%w: %s that answers nothing", errProtocol, a.verb)
	case open:
		c.strays = 0
		return nil
	case a.id == 0 || a.id > c.last:
		return fmt.Errorf("%w: %s with a number that was never used", errProtocol, a.verb)
	}
	return c.stray() // the late answer to a request that was cancelled
}

// stray counts a line that means nothing here. The caller holds the lock.
func (c *conn) stray() error {
	if c.strays++; c.strays > maxStrays {
		return fmt.Errorf("%w: %d lines that answer nothing", errProtocol, maxStrays)
	}
	return nil
}
