// Package semaphore bounds how many requests use a resource at once: a user store, the
// processors that compute password hashes, the connections to a directory. Its queue is
// fair to networks: a client that sends many requests does not delay the others.
package semaphore

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// A Turn says where a request waits, and whose slots it counts as.
type Turn struct {
	// Known selects the first line, for clients that have logged in before.
	Known bool

	// Network is the client's network. Within a line, networks take turns.
	Network netip.Prefix

	// Holders are those for whom the slot is held, for example the client's address
	// and the login. See [NewShared].
	Holders []string
}

// A Fair is a counting semaphore with a queue of two lines. The second line gets one slot
// in four while both have waiters, so that it always advances; the first line gets the
// others. Its methods may be called by many goroutines at once.
type Fair struct {
	share int // slots of one holder; 0: no bound

	mu      sync.Mutex
	free    int
	queue   queue              // empty while a slot is free
	holders map[string]*holder // that hold slots, or have waiters
}

// A holder is one name in Turn.Holders.
type holder struct {
	held int
	// over has the waiters for whom this holder has no slot left. They may still be here
	// while it has one, as long as another of its waiters is in Fair.queue.
	over queue
}

// New returns a semaphore with the given number of slots.
func New(slots int) *Fair { return &Fair{free: slots} }

// NewShared returns a semaphore with the given number of slots, of which each of
// Turn.Holders has at most a quarter at the same time, and at least one.
func NewShared(slots int) *Fair {
	return &Fair{free: slots, share: max(slots/4, 1), holders: make(map[string]*holder)}
}

// Acquire waits for a slot. It returns the cause of ctx if ctx ends before. Each successful
// Acquire must be paired with one Release of the same turn.
func (f *Fair) Acquire(ctx context.Context, t Turn) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.mu.Lock()
	if f.free > 0 && f.full(t) == nil { // so the queue is empty
		f.grant(t)
		f.mu.Unlock()
		return nil
	}
	w := &waiter{turn: t, granted: make(chan struct{})}
	f.enqueue(w)
	f.mu.Unlock()

	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.in == nil { // granted at the same moment: the slot goes to the next waiter
		f.release(t)
	} else {
		w.in.remove(w)
		f.wake(t)
	}
	f.dispatch()
	return context.Cause(ctx)
}

// Release returns the slot that was acquired for t, which goes to the next waiter.
func (f *Fair) Release(t Turn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.release(t)
	f.dispatch()
}

// release makes the slot free, and one waiter of each of its holders eligible.
func (f *Fair) release(t Turn) {
	f.free++
	for _, h := range f.of(t) {
		h.held--
	}
	f.wake(t)
}

// dispatch grants free slots to the waiters in the queue.
func (f *Fair) dispatch() {
	for f.free > 0 {
		before := f.queue.skipped
		w := f.queue.pop()
		if w == nil {
			return
		}
		if full := f.full(w.turn); full != nil {
			f.queue.skipped = before // it was not this waiter's turn
			full.over.push(w)
			f.wake(w.turn)
			continue
		}
		f.grant(w.turn)
		close(w.granted)
	}
}

// grant takes a free slot.
func (f *Fair) grant(t Turn) {
	f.free--
	for _, h := range f.of(t) {
		h.held++
	}
}

// enqueue adds the waiter to the queue, or to those of a holder that has no slot left.
func (f *Fair) enqueue(w *waiter) {
	if full := f.full(w.turn); full != nil {
		full.over.push(w)
		return
	}
	f.queue.push(w)
}

// wake moves one waiter of each holder of t that has a slot left to the queue, and removes
// the holders that are not needed any more.
func (f *Fair) wake(t Turn) {
	if f.share == 0 {
		return
	}
	for _, name := range t.Holders {
		h := f.holders[name]
		for h != nil && h.held < f.share {
			w := h.over.pop()
			if w == nil {
				break
			}
			f.enqueue(w)
			if w.in == &f.queue {
				break
			}
		}
		if h != nil && h.held == 0 && h.over.empty() {
			delete(f.holders, name)
		}
	}
}

// full returns a holder of t that has no slot left, or nil.
func (f *Fair) full(t Turn) *holder {
	if f.share == 0 {
		return nil
	}
	for _, name := range t.Holders {
		if h := f.holders[name]; h != nil && h.held >= f.share {
			return h
		}
	}
	return nil
}

// of returns the holders of t, each once.
func (f *Fair) of(t Turn) []*holder {
	if f.share == 0 {
		return nil
	}
	all := make([]*holder, 0, 2)
	for _, name := range t.Holders {
		h := f.holders[name]
		if h == nil {
			h = new(holder)
			f.holders[name] = h
		}
		if !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all
}
