package dovecot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"postern/server/auth"
)

const (
	// dialTime is for connecting and for the whole greeting, which Dovecot
	// sends at once if it is alive.
	dialTime = 5 * time.Second

	// connTime is how long a connection is used. Dovecot goes on serving it with
	// the configuration of its beginning, also after a reload.
	connTime = time.Minute

	// After a failure new connections are tried 100 ms later, then twice as
	// long, and so on. A connection counts as a failure, too, if it did not
	// live as long as the longest wait.
	firstWait = 100 * time.Millisecond
	maxWait   = 5 * time.Second
)

var errClosed = errors.New("the store is closed")

// A link is the way to Dovecot: at most one connection for new requests, and
// what is known when there is none. Everything that it starts ends with close.
type link struct {
	addr   Address
	events auth.Events
	ctx    context.Context // of its connections, not of a request
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu         sync.Mutex
	current    *conn
	dialing    *dial // nil: none is under way
	failures   int   // in a row
	retry      time.Time
	reason     error       // why there is no connection before retry
	mechanisms []mechanism // of the last greeting
	seen       bool        // there was a greeting
}

// A dial is an attempt to connect. All who need the connection wait for it.
type dial struct {
	done chan struct{} // closed at the end; the rest is set by then
	conn *conn
	err  error
}

func newLink(addr Address, events auth.Events) *link {
	ctx, stop := context.WithCancel(context.Background())
	return &link{addr: addr, events: events, ctx: ctx, stop: stop}
}

// open begins a request with the mechanism, on a new connection if need be.
func (l *link) open(ctx context.Context, mech string) (*request, error) {
	for {
		c, err := l.connection(ctx)
		if err != nil {
			return nil, err
		}
		r, err := c.open(mech)
		if !errors.Is(err, errRetired) { // its minute was over just now
			return r, err
		}
	}
}

// connection returns one that takes requests.
func (l *link) connection(ctx context.Context) (*conn, error) {
	c, d, err := l.get()
	if d == nil {
		return c, err
	}
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// refresh begins to connect if there is no connection, and does not wait.
func (l *link) refresh() { _, _, _ = l.get() }

// get returns the connection, or the attempt that may become one, or why there
// is neither.
func (l *link) get() (*conn, *dial, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ctx.Err() != nil:
		return nil, nil, errClosed
	case l.current != nil && l.current.usable():
		return l.current, nil, nil
	case l.dialing != nil:
		return nil, l.dialing, nil
	case time.Now().Before(l.retry):
		return nil, nil, l.reason
	}
	d := &dial{done: make(chan struct{})}
	l.dialing = d
	l.work.Go(func() { l.dial(d) })
	return nil, d, nil
}

// offered returns the mechanisms of the last greeting. Before there was one it
// returns false.
func (l *link) offered() ([]mechanism, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mechanisms, l.seen
}

// renew makes the next request use a new connection.
func (l *link) renew() {
	l.mu.Lock()
	c := l.current
	l.current = nil
	l.mu.Unlock()
	if c != nil {
		c.retire()
	}
}

func (l *link) close() {
	l.mu.Lock()
	l.stop()
	l.mu.Unlock()
	l.work.Wait()
}

// dial connects, and tells those who wait.
func (l *link) dial(d *dial) {
	d.conn, d.err = connect(l.ctx, l.addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(d.done)
	l.dialing = nil
	if d.err != nil {
		l.failed(d.err)
		return
	}
	if l.reason != nil {
		l.events.DovecotAvailable(l.addr.String())
	}
	l.reason = nil
	l.current = d.conn
	l.mechanisms, l.seen = d.conn.greeting.mechanisms, true
	l.serve(d.conn)
}

// failed makes the next attempt wait. The caller holds the lock.
func (l *link) failed(err error) {
	if l.reason == nil && l.ctx.Err() == nil {
		l.events.DovecotUnavailable(l.addr.String(), err)
	}
	l.reason = err
	l.failures++
	l.retry = time.Now().Add(min(firstWait<<min(l.failures-1, 10), maxWait))
}

// serve runs a connection until it ends. The caller holds the lock.
func (l *link) serve(c *conn) {
	began := time.Now()
	age := time.AfterFunc(connTime, c.retire)
	unhook := context.AfterFunc(l.ctx, func() { c.end(errClosed) })
	l.work.Go(c.write)
	l.work.Go(func() {
		c.read()
		age.Stop()
		unhook()
		l.lost(c, time.Since(began))
	})
}

// lost takes note of a connection that has ended after some time.
func (l *link) lost(c *conn, lived time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != c {
		return // has been replaced
	}
	l.current = nil
	switch {
	case errors.Is(c.err, errRetired), errors.Is(c.err, errClosed):
	case lived < maxWait:
		l.failed(c.err)
		return
	default:
		l.events.DovecotLost(l.addr.String(), c.err)
	}
	l.failures = 0
}

// connect makes a connection and reads its greeting.
func connect(ctx context.Context, addr Address) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var dialer net.Dialer
	n, err := dialer.DialContext(ctx, addr.network, addr.addr)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to Dovecot: %w", err)
	}
	c, err := greet(ctx, n)
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return c, nil
}

// greet exchanges greetings. The end of ctx ends it.
func greet(ctx context.Context, n net.Conn) (*conn, error) {
	unhook := context.AfterFunc(ctx, func() { _ = n.SetDeadline(time.Unix(1, 0)) })
	if _, err := n.Write(hello()); err != nil {
		return nil, err
	}
	in := newLineReader(n)
	g, err := readGreeting(in)
	if err != nil {
		return nil, g.explain(err)
	}
	if !unhook() {
		return nil, context.Cause(ctx)
	}
	return newConn(n, in, g), nil
}
