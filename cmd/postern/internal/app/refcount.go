package app

import "sync"

// A refCounted holds the newest of several values, and closes each older one when its
// last user has released it. So a reload replaces a value at once and interrupts none
// of its users. Its methods may be called by many goroutines at once.
type refCounted[T any] struct {
	mu     sync.Mutex
	newest *counted[T]
}

// A counted is one value and the number of its users.
type counted[T any] struct {
	value   T
	close   func()
	users   int
	retired bool // to be closed when there are no users
}

// Replace makes value the newest one and retires the one before. close is called once,
// when value is retired and has no users.
func (r *refCounted[T]) Replace(value T, close func()) {
	r.mu.Lock()
	before := r.newest
	r.newest = &counted[T]{value: value, close: sync.OnceFunc(close)}
	r.mu.Unlock()
	r.retire(before)
}

// Acquire returns the newest value. The caller must call release at the end of its use;
// further calls have no effect. After Retire, the value may be closed already.
func (r *refCounted[T]) Acquire() (value T, release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.newest
	c.users++
	return c.value, sync.OnceFunc(func() {
		r.mu.Lock()
		c.users--
		unused := c.retired && c.users == 0
		r.mu.Unlock()
		if unused {
			c.close()
		}
	})
}

// Retire closes the newest value as soon as it has no users.
func (r *refCounted[T]) Retire() {
	r.mu.Lock()
	last := r.newest
	r.mu.Unlock()
	r.retire(last)
}

func (r *refCounted[T]) retire(c *counted[T]) {
	if c == nil {
		return
	}
	r.mu.Lock()
	c.retired = true
	unused := c.users == 0
	r.mu.Unlock()
	if unused {
		c.close()
	}
}
