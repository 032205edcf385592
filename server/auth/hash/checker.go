package hash

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
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
	mac := c.memo.mac(stored, password)
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
	mac := c.memo.mac(stored, password)
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
			return false, err
		}
		defer c.large.Release()
	}
	if err := c.slots.Acquire(ctx, known); err != nil {
		return false, err
	}
	defer c.slots.Release()
	return compare(h)
}

// memoHalf is half of what a memo holds, at some 50 bytes each.
const memoHalf = 1 << 14

// A memo remembers that a password has matched a stored hash, so that the costly
// comparison is made once: a mail client logs in with every message. It is
// asked with the hash as it is stored now, so that a changed password is out at
// once and no entry ever needs to expire. It holds nothing but HMACs under a key
// that does not leave the process, and mismatches are never remembered.
//
// It has two halves: when the young one is full, the old one is forgotten. What
// is found in the old one moves to the young one. It is safe for use by many
// goroutines.
type memo struct {
	key []byte

	mu         sync.Mutex
	young, old map[memoMAC]struct{}
}

type memoMAC [sha256.Size]byte

func newMemo() *memo {
	m := &memo{key: make([]byte, sha256.Size), young: make(map[memoMAC]struct{})}
	rand.Read(m.key) // never fails: crypto/rand ends the process instead
	return m
}

// mac binds the two so that no other pair has the same concatenation.
func (m *memo) mac(stored, password string) (sum memoMAC) {
	h := hmac.New(sha256.New, m.key)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(stored)))
	h.Write(n[:])
	h.Write([]byte(stored))
	h.Write([]byte(password))
	h.Sum(sum[:0])
	return sum
}

func (m *memo) has(mac memoMAC) bool {
	m.mu.Lock()
	_, young := m.young[mac]
	_, old := m.old[mac]
	m.mu.Unlock()
	if old && !young {
		m.add(mac)
	}
	return young || old
}

func (m *memo) add(mac memoMAC) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.young) >= memoHalf {
		m.old, m.young = m.young, make(map[memoMAC]struct{})
	}
	m.young[mac] = struct{}{}
}
