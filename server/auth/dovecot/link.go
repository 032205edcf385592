package dovecot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"postern/server/auth"
)

const (
	// dialTime is for connecting and for the greeting, which a running Dovecot sends at
	// once.
	dialTime = 5 * time.Second

	// connTime is how long a connection is used. Dovecot serves it with the
	// configuration from its start, even after a reload.
	connTime = time.Minute

	// After a failure the next attempt to connect is made 100 ms later, then after twice
	// that time, and so on up to maxWait. A connection that lives shorter than maxWait is
	// a failure, too.
	firstWait = 100 * time.Millisecond
	maxWait   = 5 * time.Second
)

var errClosed = errors.New("the store is closed")

// A link keeps at most one connection to Dovecot for new requests, and remembers the last
// greeting and the last error while there is none. All its goroutines end with close.
type link struct {
	addr   Address
	events auth.Events
	ctx    context.Context // of the connections, not of a request
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu         sync.Mutex
	current    *conn
	dialing    *dial // nil: no attempt is being made
	failures   int   // in a row
	retry      time.Time
	reason     error       // why there is no connection before retry
	mechanisms []mechanism // of the last greeting
	seen       bool        // there was a greeting
}

// A dial is an attempt to connect. All requests that need the connection wait for it.
type dial struct {
	done chan struct{} // closed at the end; the other fields are set by then
	conn *conn
	err  error
}

func newLink(addr Address, events auth.Events) *link {
	ctx, stop := context.WithCancel(context.Background())
	return &link{addr: addr, events: events, ctx: ctx, stop: stop}
}

// open begins a request with the mechanism, on a new connection if there is none.
func (l *link) open(ctx context.Context, mech string) (*request, error) {
	for {
		c, err := l.connection(ctx)
		if err != nil {
			return nil, err
		}
		r, err := c.open(mech)
		if !errors.Is(err, errRetired) { // its minute has just ended
			return r, err
		}
	}
}

// connection returns a connection that accepts requests.
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

// get returns the connection, or else the attempt to connect, or else the reason why
// there is neither.
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

// offered returns the mechanisms of the last greeting, and false before the first one.
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

// dial connects and publishes the result.
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

// failed delays the next attempt. The caller holds the lock.
func (l *link) failed(err error) {
	if l.reason == nil && l.ctx.Err() == nil {
		l.events.DovecotUnavailable(l.addr.String(), err)
	}
	l.reason = err
	l.failures++
	l.retry = time.Now().Add(min(firstWait<<min(l.failures-1, 10), maxWait))
}

// serve starts the goroutines of a connection. The caller holds the lock.
func (l *link) serve(c *conn) {
	began := time.Now()
	age := time.AfterFunc(connTime, c.retire)
	unhook := context.AfterFunc(l.ctx, func() { c.end(errClosed) })
	l.work.Go(c.write)
	l.work.Go(func() {
		c.read()
		age.Stop()
		unhook()
		l.ended(c, time.Since(began))
	})
}

// ended removes a connection that has ended after some time.
func (l *link) ended(c *conn, lived time.Duration) {
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

// connect opens a connection and reads its greeting.
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

// greet exchanges greetings, until ctx ends at most.
func greet(ctx context.Context, n net.Conn) (*conn, error) {
	unhook := context.AfterFunc(ctx, func() { _ = n.SetDeadline(time.Unix(1, 0)) })
	// Dovecot requires a process id, but does not need it to distinguish its clients.
	hello := newLine("VERSION", "1", "2").end()
	hello = append(hello, newLine("CPID", strconv.Itoa(os.Getpid())).end()...)
	if _, err := n.Write(hello); err != nil {
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
	return &conn{
		net: n, in: in, greeting: g,
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		requests: make(map[uint32]*request),
	}, nil
}
