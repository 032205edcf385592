package ldapclient

import (
	"context"
	"slices"
	"sync"
	"time"

	"postern/internal/semaphore"
)

// A pool has the connections to one server. At most limit are open at once, including
// idle ones. It is safe for concurrent use.
type pool struct {
	limit    int
	idleTime time.Duration
	slots    *semaphore.Fair // limit of them

	mu     sync.Mutex
	inUse  int
	idle   [purposes][]*Conn // the most recently used last
	closed bool
}

// acquire waits for the right to use one connection. Each successful acquire must be paired
// with one release of the same turn. Between them the caller calls take,
// and dials if that returns nil.
func (p *pool) acquire(ctx context.Context, turn semaphore.Turn) error {
	if err := p.slots.Acquire(ctx, turn); err != nil {
		return err
	}
	p.mu.Lock()
	p.inUse++
	p.mu.Unlock()
	return nil
}

// take returns an idle connection, or nil. It closes others as needed to stay below the
// limit with one more.
func (p *pool) take(want Purpose) *Conn {
	var discarded []*Conn
	defer func() { // after the lock is released
		for _, d := range discarded {
			d.close()
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := p.pop(want); c != nil; c = p.pop(want) {
		if !c.ldap.IsClosing() {
			return c
		}
		discarded = append(discarded, c) // closed by the server while idle
	}
	for other := range purposes {
		// inUse has the connection that the caller will dial.
		if p.inUse+len(p.idle[ForSearches])+len(p.idle[ForBinds]) <= p.limit {
			break
		}
		if c := p.pop(other); c != nil {
			discarded = append(discarded, c)
		}
	}
	return nil
}

// pop removes the most recently used connection, so that the others reach idleTime.
func (p *pool) pop(want Purpose) *Conn {
	idle := p.idle[want]
	if len(idle) == 0 {
		return nil
	}
	c := idle[len(idle)-1]
	p.idle[want] = idle[:len(idle)-1]
	c.expiry.Stop()
	return c
}

// release returns the connection, which may be nil, to the pool or closes it.
func (p *pool) release(c *Conn, turn semaphore.Turn) {
	p.mu.Lock()
	p.inUse--
	keep := c != nil && !c.broken && !p.closed
	if keep {
		c.reused = true
		p.idle[c.purpose] = append(p.idle[c.purpose], c)
		c.expiry = time.AfterFunc(p.idleTime, func() { p.expire(c) })
	}
	p.mu.Unlock()
	if c != nil && !keep {
		c.close()
	}
	p.slots.Release(turn)
}

// expire closes a connection after idleTime, unless it was taken concurrently.
func (p *pool) expire(c *Conn) {
	p.mu.Lock()
	i := slices.Index(p.idle[c.purpose], c)
	if i >= 0 {
		p.idle[c.purpose] = slices.Delete(p.idle[c.purpose], i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		c.close()
	}
}

// closeIdle closes the idle connections, without an unbind request if broken is set.
func (p *pool) closeIdle(broken bool) {
	p.mu.Lock()
	idle := slices.Concat(p.idle[:]...)
	p.idle = [purposes][]*Conn{}
	p.mu.Unlock()
	for _, c := range idle {
		c.expiry.Stop()
		c.broken = c.broken || broken
		c.close()
	}
}

// close closes the idle connections. Those in use are closed at their release.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.closeIdle(false)
}
