package hash

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"postern/server/auth/semaphore"
)

// ErrBusy means that the password was not compared: too many hashes were being computed
// for all of the time that the caller may wait. It is a temporary error.
var ErrBusy = errors.New("hash: too many passwords are being hashed at once")

// DefaultDecoy is a hash for [Checker.Decoy] if a store has none to imitate: bcrypt of
// cost 10. No password with this hash is known.
const DefaultDecoy = "$2a$10$PosternDecoyPosternDeu9xFqvN0bZyTtWm3kHcRjLsEaUi2oGd6"

// A Checker compares passwords for all stores of the process. It computes at
// most as many hashes at once as Go uses processors, of those that need more than
// 128 MiB one at a time. The others wait for a bounded time. It remembers the passwords
// that have matched. It may be used by many goroutines at once.
type Checker struct {
	slots *semaphore.Priority
	large *semaphore.Priority
	memo  *memo
	wait  atomic.Int64 // time.Duration
}

// NewChecker returns a Checker whose callers wait for up to wait.
func NewChecker(wait time.Duration) *Checker {
	c := &Checker{slots: semaphore.New(runtime.GOMAXPROCS(0)), large: semaphore.New(1), memo: newMemo()}
	c.SetWait(wait)
	return c
}

// SetWait changes how long callers wait from now on.
func (c *Checker) SetWait(wait time.Duration) { c.wait.Store(int64(wait)) }

// Check reports whether password is the one whose hash is stored. known means that
// the client has logged in before; it goes before the others. An error means that the
// password was not compared: [ErrBusy], the cause of ctx, or that of Parse.
func (c *Checker) Check(ctx context.Context, stored, password string, known bool) (bool, error) {
	mac := c.memo.key.MAC(stored, password)
	if c.memo.has(mac) {
		return true, nil
	}
	return c.whenItsTurn(ctx, stored, known, func(h Hash) (bool, error) {
		// A client opens several connections at once: the comparison may have been
		// made for one of them meanwhile.
		if c.memo.has(mac) {
			return true, nil
		}
		ok, err := h.Matches(password)
		if ok && err == nil {
			c.memo.add(mac)
		}
		return ok && err == nil, err
	})
}

// Decoy takes as long as a Check that fails. Stores call it for an unknown user, so that
// the time of the answer does not depend on whether there is such a user.
func (c *Checker) Decoy(ctx context.Context, stored, password string, known bool) error {
	mac := c.memo.key.MAC(stored, password)
	c.memo.has(mac)
	_, err := c.whenItsTurn(ctx, stored, known, func(h Hash) (bool, error) {
		c.memo.has(mac)
		return h.Matches(password)
	})
	return err
}

// whenItsTurn waits until the hash may be computed, and calls compare. It does neither
// for a locked hash, which no password matches.
func (c *Checker) whenItsTurn(ctx context.Context, stored string, known bool, compare func(Hash) (bool, error)) (bool, error) {
	h, err := Parse(stored)
	if err != nil || h.Locked() {
		return false, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(c.wait.Load()), ErrBusy)
	defer cancel()
	if h.large {
		if err := c.large.Acquire(ctx, known); err != nil {
			return false, busy(err)
		}
		defer c.large.Release()
	}
	if err := c.slots.Acquire(ctx, known); err != nil {
		return false, busy(err)
	}
	defer c.slots.Release()
	return compare(h)
}

// busy adds ErrBusy to the reason why a caller waits no longer: the deadline of its
// context may come before the end of the wait that the configuration allows.
func busy(err error) error {
	if errors.Is(err, ErrBusy) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrBusy, err)
}
