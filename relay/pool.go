package relay

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

var (
	errBusy   = errors.New("all connections to the hop are in use")
	errClosed = errors.New("relay: the router is closed")
)

// A pool holds the connections to one hop. It may be used by many goroutines
// at once.
//
// Each connection in use has a seat; who has none waits in line. A connection
// is opened only when none is idle, so those in use and those idle together
// are no more than there are seats.
type pool struct {
	peer  *peer
	cfg   PoolConfig
	log   *slog.Logger
	seats *queue

	mu      sync.Mutex
	idle    []*conn // the one used last at the end
	parked  map[*parking]struct{}
	waiting int // transactions without a seat
	closed  bool
	work    sync.WaitGroup // of background
}

func newPool(p *peer, cfg PoolConfig, log *slog.Logger) *pool {
	return &pool{
		peer:   p,
		cfg:    cfg,
		log:    log.With("hop", p.url.String()),
		seats:  newQueue(cfg.Connections),
		parked: map[*parking]struct{}{},
	}
}

// get returns a connection for user, an idle one if there is one. It goes
// back by put, giveBack, retire or discard.
func (p *pool) get(ctx context.Context, user string) (*conn, error) {
	if err := p.admit(ctx, user); err != nil {
		return nil, err
	}
	if c := p.pop(); c != nil {
		c.user = user
		return c, nil
	}
	return p.open(ctx, user)
}

// fresh returns a new connection. It is wanted when an idle one turned out to
// be stale, and then its neighbours are likely to be stale, too.
func (p *pool) fresh(ctx context.Context, user string) (*conn, error) {
	if err := p.admit(ctx, user); err != nil {
		return nil, err
	}
	p.sweep(0)
	return p.open(ctx, user)
}

func (p *pool) open(ctx context.Context, user string) (*conn, error) {
	c, err := p.peer.open(ctx)
	if err != nil {
		p.seats.leave(user)
		return nil, err
	}
	c.user = user
	return c, nil
}

// admit waits for a seat, as long as a connection may take to be made.
func (p *pool) admit(ctx context.Context, user string) error {
	if !p.seats.try(user) {
		p.hurry(+1)
		defer p.hurry(-1)
		ctx, cancel := context.WithTimeout(ctx, p.peer.connect)
		defer cancel()
		if err := p.seats.wait(ctx, user); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.seats.leave(user)
		return errClosed
	}
	return nil
}

// pop returns the idle connection used last, or nil.
func (p *pool) pop() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 || time.Since(p.idle[n-1].idleSince) > p.cfg.IdleTime {
		return nil
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	c.reused = true
	return c
}

// put takes back a connection on which no transaction is open.
func (p *pool) put(c *conn) {
	if reason := p.tired(c); reason != "" {
		p.retire(c, reason)
		return
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.retire(c, "shutdown")
		return
	}
	user := c.user // of the next one, once it is idle
	c.idleSince = time.Now()
	p.idle = append(p.idle, c)
	p.mu.Unlock()
	p.seats.leave(user)
}

// tired says why a connection is not to be used again, if so.
func (p *pool) tired(c *conn) string {
	switch {
	case c.refusals >= maxRefusals:
		return "refusals"
	case c.giveBacks >= maxGiveBacks:
		return "give-backs"
	case c.delivered >= p.cfg.Messages:
		return "messages"
	}
	return ""
}

// giveBack is put for a connection that may have a transaction open. It
// keeps nobody waiting.
func (p *pool) giveBack(c *conn) {
	if !c.open || p.tired(c) != "" {
		p.put(c)
		return
	}
	p.background(func() {
		if err := c.reset(context.Background()); err != nil {
			p.log.Debug("connection lost", "at", "RSET", "err", err)
			p.discard(c)
			return
		}
		p.put(c)
	})
}

// retire closes a connection politely, without keeping anybody waiting.
func (p *pool) retire(c *conn, reason string) {
	p.log.Debug("connection retired", "reason", reason, "delivered", c.delivered, "refusals", c.refusals, "give_backs", c.giveBacks)
	p.background(c.quit)
	p.seats.leave(c.user)
}

// background runs do in a goroutine that close waits for. What comes after
// close is done at once.
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
	c.drop()
	p.seats.leave(c.user)
}

// part gives up the seat of a connection that goes on without the pool.
func (p *pool) part(c *conn) { p.seats.leave(c.user) }

// sweep closes the connections that have been idle for d or longer.
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

// close ends the idle connections; those in use end when they come back.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.work.Wait()
	p.sweep(0)
}
