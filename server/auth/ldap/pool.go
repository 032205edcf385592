package ldap

import (
	"context"
	"slices"
	"sync"
	"time"

	"postern/server/auth/semaphore"
)

// A pool is the connections to one server. At most limit are open at once,
// those that nobody uses included. It is safe for use by many goroutines.
type pool struct {
	limit    int
	idleTime time.Duration
	slots    *semaphore.Priority // limit of them

	mu     sync.Mutex
	inUse  int
	idle   [purposes][]*conn // the last used at the end
	closed bool
}

func newPool(limit int, idleTime time.Duration) *pool {
	return &pool{limit: limit, idleTime: idleTime, slots: semaphore.New(limit)}
}

// enter waits for a place, first if the client is known. Who has entered either
// takes a connection or dials one, and leaves.
func (p *pool) enter(ctx context.Context, known bool) error {
	if err := p.slots.Acquire(ctx, known); err != nil {
		return err
	}
	p.mu.Lock()
	p.inUse++
	p.mu.Unlock()
	return nil
}

// take returns an idle connection, or nil: then there is room to dial one.
func (p *pool) take(want purpose) *conn {
	c, discarded := p.pick(want)
	for _, d := range discarded {
		d.close()
	}
	return c
}

// pick returns the connection to use, if there is one, and those to close.
func (p *pool) pick(want purpose) (c *conn, discarded []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c = p.pop(want); c != nil; c = p.pop(want) {
		if !c.ldap.IsClosing() {
			return c, discarded
		}
		discarded = append(discarded, c) // the server has hung up meanwhile
	}
	for other := range purposes {
		if p.open() <= p.limit {
			break
		}
		if c := p.pop(other); c != nil {
			discarded = append(discarded, c)
		}
	}
	return nil, discarded
}

// open counts the connections, and the one about to be dialled.
func (p *pool) open() int {
	return p.inUse + len(p.idle[forSearches]) + len(p.idle[forUsers])
}

// pop takes out the connection that was used last. It is the freshest, and lets
// the others grow old enough to be closed.
func (p *pool) pop(want purpose) *conn {
	idle := p.idle[want]
	if len(idle) == 0 {
		return nil
	}
	c := idle[len(idle)-1]
	p.idle[want] = idle[:len(idle)-1]
	c.expiry.Stop()
	return c
}

// leave gives the place back and the connection, if there is one, to the pool.
func (p *pool) leave(c *conn) {
	if !p.keep(c) && c != nil {
		c.close()
	}
	p.slots.Release()
}

// keep ends the use of c, and reports whether it is in the pool now.
func (p *pool) keep(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inUse--
	if c == nil || c.broken || p.closed {
		return false
	}
	c.reused = true
	p.idle[c.purpose] = append(p.idle[c.purpose], c)
	c.expiry = time.AfterFunc(p.idleTime, func() { p.expire(c) })
	return true
}

// expire closes a connection that has been idle for too long, unless somebody
// has taken it at the same moment.
func (p *pool) expire(c *conn) {
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

// clear closes what is idle, without a word if the server is gone.
func (p *pool) clear(gone bool) {
	p.mu.Lock()
	idle := slices.Concat(p.idle[:]...)
	p.idle = [purposes][]*conn{}
	p.mu.Unlock()
	for _, c := range idle {
		c.expiry.Stop()
		c.broken = c.broken || gone
		c.close()
	}
}

// close closes what is idle, and lets what is in use be closed when it comes
// back.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.clear(false)
}
