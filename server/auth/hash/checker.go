package hash

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"postern/server/auth/gate"
)

// ErrBusy means that nobody could tell: so many hashes are being computed that
// this one did not get its turn in time. It is a temporary error.
var ErrBusy = errors.New("hash: too many passwords are being hashed at once")

// DefaultDecoy is a hash for [Checker.Decoy] where there is none to take after:
// bcrypt of cost 10. Nobody knows a password that it is the hash of.
const DefaultDecoy = "$2a$10$PosternDecoyPosternDeu9xFqvN0bZyTtWm3kHcRjLsEaUi2oGd6"

// A Checker compares passwords for all stores of the process. It computes at
// most as many hashes at once as Go uses processors, of those that need more than
// 128 MiB one at a time, and lets the others wait for a bounded time. It
// remembers what has matched. It may be used by many goroutines at once.
type Checker struct {
	places *gate.Gate
	large  *gate.Gate
	memo   *memo
	wait   atomic.Int64 // time.Duration
}

// NewChecker returns a Checker whose callers wait for their turn for up to wait.
func NewChecker(wait time.Duration) *Checker {
	c := &Checker{places: gate.New(runtime.GOMAXPROCS(0)), large: gate.New(1), memo: newMemo()}
	c.SetWait(wait)
	return c
}

// SetWait changes how long callers wait from now on.
func (c *Checker) SetWait(wait time.Duration) { c.wait.Store(int64(wait)) }

// Check reports whether password is the one whose hash is stored. known says that
// the client has logged in before; it gets its turn before the others. An error
// means that nobody could tell: [ErrBusy], the cause of ctx, or that of Parse.
func (c *Checker) Check(ctx context.Context, stored, password string, known bool) (bool, error) {
	mac := c.memo.mac(stored, password)
	if c.memo.has(mac) {
		return true, nil
	}
	return c.whenItsTurn(ctx, stored, known, func(h Hash) (bool, error) {
		// A client opens several connections at once: one of them may have had
		// its turn meanwhile.
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

// Decoy takes as long as a Check that fails, and finds nothing out: it is what an
// unknown user gets, so that time does not tell who exists.
func (c *Checker) Decoy(ctx context.Context, stored, password string, known bool) error {
	mac := c.memo.mac(stored, password)
	c.memo.has(mac)
	_, err := c.whenItsTurn(ctx, stored, known, func(h Hash) (bool, error) {
		c.memo.has(mac)
		return h.Matches(password)
	})
	return err
}

// whenItsTurn calls compare when there is a place for the hash. A locked one
// needs none: nothing matches it.
func (c *Checker) whenItsTurn(ctx context.Context, stored string, known bool, compare func(Hash) (bool, error)) (bool, error) {
	h, err := Parse(stored)
	if err != nil || h.Locked() {
		return false, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(c.wait.Load()), ErrBusy)
	defer cancel()
	if h.large {
		if err := c.large.Enter(ctx, known); err != nil {
			return false, err
		}
		defer c.large.Leave()
	}
	if err := c.places.Enter(ctx, known); err != nil {
		return false, err
	}
	defer c.places.Leave()
	return compare(h)
}
