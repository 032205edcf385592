// Package semaphore bounds how many requests use a resource at once: a user store, the
// processors that compute password hashes, the connections to a directory.
package semaphore

import (
	"container/list"
	"context"
	"sync"
)

// A Priority is a counting semaphore with two queues, each in order of arrival. The
// second queue advances only while the first is empty, so that clients that have
// logged in before do not wait for clients that guess. Its methods may be called by
// many goroutines at once.
type Priority struct {
	mu     sync.Mutex
	free   int
	queues [2]list.List // of chan struct{}, closed when the waiter gets its slot
}

// New returns a semaphore with the given number of slots.
func New(slots int) *Priority { return &Priority{free: slots} }

// Acquire waits for a slot, in the first queue if first is set. It returns the cause of
// ctx if ctx ends before. Each successful Acquire must be paired with one Release.
func (p *Priority) Acquire(ctx context.Context, first bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.mu.Lock()
	if p.free > 0 {
		p.free--
		p.mu.Unlock()
		return nil
	}
	queue := &p.queues[1]
	if first {
		queue = &p.queues[0]
	}
	granted := make(chan struct{})
	waiter := queue.PushBack(granted)
	p.mu.Unlock()

	select {
	case <-granted:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	select {
	case <-granted: // at the same moment: the slot goes to the next waiter
		p.mu.Unlock()
		p.Release()
	default:
		queue.Remove(waiter)
		p.mu.Unlock()
	}
	return context.Cause(ctx)
}

// Release returns the slot, which goes to the next waiter.
func (p *Priority) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.queues {
		if next := p.queues[i].Front(); next != nil {
			close(p.queues[i].Remove(next).(chan struct{}))
			return
		}
	}
	p.free++
}
