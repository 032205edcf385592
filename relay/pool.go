package relay

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	errBusy   = errors.New("all connections to the hop are in use")
	errClosed = errors.New("relay: the router is closed")
)

// A pool holds the connections to one hop. It may be used by many goroutines at once.
//
// Each connection in use occupies a slot. If none is free, a transaction waits. A
// connection is opened only if none is idle, so there are never more connections, in use
// and idle, than slots.
type pool struct {
	peer   *peer
	cfg    PoolConfig
	events Events
	slots  *slots

	mu      sync.Mutex
	idle    []*conn                // the one used last at the end
	held    map[*idleHold]struct{} // see hold
	waiting int                    // transactions without a slot
	closed  bool
	work    sync.WaitGroup // of background
}

func newPool(p *peer, cfg PoolConfig, events Events) *pool {
	return &pool{
		peer:   p,
		cfg:    cfg,
		events: events,
		slots:  newSlots(cfg.Connections),
		held:   map[*idleHold]struct{}{},
	}
}

// get returns a connection for user. The caller must pass it to put, retire or discard.
//
// With fresh, the connection is a new one, and all idle ones are closed: the hop had closed
// one of them, and has probably closed the others, too.
func (p *pool) get(ctx context.Context, user string, fresh bool) (*conn, error) {
	if err := p.acquireSlot(ctx, user); err != nil {
		return nil, err
	}
	if fresh {
		p.sweep(0)
	}
	var c *conn
	p.mu.Lock()
	if last := len(p.idle) - 1; !fresh && last >= 0 && time.Since(p.idle[last].idleSince) <= p.cfg.IdleTime {
		c = p.idle[last]
		c.reused = true
		p.idle[last] = nil
		p.idle = p.idle[:last]
	}
	p.mu.Unlock()
	if c == nil {
		var err error
		if c, err = p.peer.open(ctx); err != nil {
			p.slots.release(user)
			return nil, err
		}
	}
	c.user = user
	return c, nil
}

// acquireSlot waits for a slot, at most as long as connecting may take.
func (p *pool) acquireSlot(ctx context.Context, user string) error {
	if !p.slots.try(user) {
		p.shortenHolds(+1)
		defer p.shortenHolds(-1)
		ctx, cancel := context.WithTimeout(ctx, p.peer.cfg.ConnectTimeout)
		defer cancel()
		if err := p.slots.acquire(ctx, user); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.slots.release(user)
		return errClosed
	}
	return nil
}

// put returns a connection to the pool, or retires it if it has to be replaced. If a
// transaction is open on the connection, put first resets it, in the background.
func (p *pool) put(c *conn) {
	switch {
	case c.refusals >= maxRefusals:
		p.retire(c, "refusals")
		return
	case c.releases >= maxReleases:
		p.retire(c, "give-backs")
		return
	case c.delivered >= p.cfg.Messages:
		p.retire(c, "messages")
		return
	case c.open:
		p.background(func() {
			if err := c.reset(context.Background()); err != nil {
				p.events.ConnectionLost(p.peer.url.String(), "RSET", err)
				p.discard(c)
				return
			}
			p.put(c)
		})
		return
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.retire(c, "shutdown")
		return
	}
	user := c.user // before another transaction gets the connection
	c.idleSince = time.Now()
	p.idle = append(p.idle, c)
	p.mu.Unlock()
	p.slots.release(user)
}

// retire ends a connection with QUIT, in the background.
func (p *pool) retire(c *conn, reason string) {
	p.events.ConnectionRetired(p.peer.url.String(), Retired{reason, c.delivered, c.refusals, c.releases})
	p.background(c.quit)
	p.slots.release(c.user)
}

// background runs do in a goroutine that close waits for. After close it runs do at
// once, in the calling goroutine.
func (p *pool) background(do func()) {
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.work.Go(do)
	}
	p.mu.Unlock()
	if closed {
		do()
	}
}

// discard closes a connection that is broken or in the middle of a message.
func (p *pool) discard(c *conn) {
	c.raw.Close()
	p.slots.release(c.user)
}

// sweep closes the connections that have been idle for d or longer, in the background.
func (p *pool) sweep(d time.Duration) {
	p.mu.Lock()
	old := 0
	for old < len(p.idle) && time.Since(p.idle[old].idleSince) >= d {
		old++
	}
	stale := append([]*conn(nil), p.idle[:old]...)
	p.idle = append([]*conn(nil), p.idle[old:]...)
	p.mu.Unlock()
	for _, c := range stale {
		p.background(c.quit)
	}
}

// drain ends the idle connections, and returns when it has.
func (p *pool) drain() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		c.quit()
	}
}

// close ends the idle connections; those in use end when they are returned.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.work.Wait()
	p.sweep(0)
}

// How long a transaction keeps its connection after its last recipient, while the
// client sends the body.
const (
	// Most clients send a short message within a second, so that MAIL and RCPT need
	// not be repeated on another connection.
	holdTime = time.Second

	// The hold time while other transactions wait for a connection. It is longer than the
	// time between two recipients of a client that uses PIPELINING.
	crowdedHold = 10 * time.Millisecond
)

// An idleHold is the time during which a transaction keeps a connection without using
// it.
type idleHold struct {
	since time.Time
	timer *time.Timer
}

// hold begins an idleHold. At its end, yield is called, in a goroutine of the timer, to
// return the connection.
func (p *pool) hold(yield func(*idleHold)) *idleHold {
	k := &idleHold{since: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	d := holdTime
	if p.waiting > 0 {
		d = crowdedHold
	}
	k.timer = time.AfterFunc(d, func() { yield(k) })
	p.held[k] = struct{}{}
	return k
}

// endHold ends k early. A yield that has begun may still be running.
func (p *pool) endHold(k *idleHold) {
	k.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, k)
}

// shortenHolds adds waiters to the number of transactions that wait for a connection, and
// shortens all holds if there are more of them now. As a result, a yield may be called
// twice. That is harmless, because a transaction releases a connection only once.
func (p *pool) shortenHolds(waiters int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting += waiters
	if waiters < 0 {
		return
	}
	for k := range p.held {
		k.timer.Reset(max(0, crowdedHold-time.Since(k.since)))
	}
}
