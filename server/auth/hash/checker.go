package hash

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"postern/internal/lru"
	"postern/internal/semaphore"
)

// ErrBusy means that the password was not compared, because other hashes were being computed
// for as long as the caller may wait. It is a temporary error.
var ErrBusy = errors.New("hash: too many passwords are being hashed at once")

// DefaultDecoy is a hash of [DefaultKind] for [Checker.Decoy], if a store has no hash to
// imitate. No password is known that matches it.
const DefaultDecoy = "$2a$10$" + bcryptSalt + bcryptSum

// A Checker compares passwords for all stores of the process. It computes at most as many
// hashes at once as Go uses processors, and only one at a time that needs more than 128 MiB.
// Further callers wait for a bounded time. It remembers the passwords that have matched. It
// may be used by many goroutines at once.
type Checker struct {
	slots *semaphore.Fair
	large *semaphore.Fair
	memo  *memo
	wait  atomic.Int64 // time.Duration

	mu       sync.Mutex
	censuses *lru.Map[string, *Census] // see Census
}

// maxCensuses bounds the stores whose users are counted, past ones included.
const maxCensuses = 64

// NewChecker returns a Checker whose callers wait at most for wait.
func NewChecker(wait time.Duration) *Checker {
	c := &Checker{slots: semaphore.New(runtime.GOMAXPROCS(0)), large: semaphore.New(1), memo: newMemo(), censuses: lru.New[string, *Census](maxCensuses)}
	c.SetWait(wait)
	return c
}

// SetWait changes how long callers wait from now on.
func (c *Checker) SetWait(wait time.Duration) { c.wait.Store(int64(wait)) }

// Census returns what is known of the users of a store. It is always the same one for the same
// users, which names the table that they are in: a store that is opened again, as after a
// reload, knows its users.
func (c *Checker) Census(users string) *Census {
	c.mu.Lock()
	defer c.mu.Unlock()
	census, ok := c.censuses.Get(users)
	if !ok {
		census = NewCensus()
	}
	c.censuses.Put(users, census)
	return census
}

type traceKey struct{}

// WithTrace returns a context for [Checker.Check] and [Checker.Decoy] in which record is called
// for each hash that is computed, before it is, by the same goroutine.
func WithTrace(ctx context.Context, record func(Kind)) context.Context {
	return context.WithValue(ctx, traceKey{}, record)
}

// Check reports whether password is the one whose hash is stored. turn is the place of the
// client among those that wait for a processor. An error means that the
// password was not compared: it is [ErrBusy], with the cause of ctx if that has ended, or an
// error of Parse.
func (c *Checker) Check(ctx context.Context, stored, password string, turn semaphore.Turn) (bool, error) {
	mac := c.memo.key.MAC(stored, password)
	if c.memo.has(mac) {
		return true, nil
	}
	return c.compute(ctx, stored, turn, func(h Hash) (bool, error) {
		// A client opens several connections at once: another one may have made the
		// comparison meanwhile.
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

// Remembers reports whether Check would accept the password without computing a hash.
func (c *Checker) Remembers(stored, password string) bool {
	return c.memo.has(c.memo.key.MAC(stored, password))
}

// Decoy takes as long as a Check that fails. Stores call it for unknown users, so that the
// time of the answer does not depend on whether there is such a user.
func (c *Checker) Decoy(ctx context.Context, stored, password string, turn semaphore.Turn) error {
	mac := c.memo.key.MAC(stored, password)
	c.memo.has(mac)
	_, err := c.compute(ctx, stored, turn, func(h Hash) (bool, error) {
		c.memo.has(mac)
		return h.Matches(password)
	})
	return err
}

// compute waits until the hash may be computed, and calls compare. For a locked hash, which
// no password matches, it does neither.
func (c *Checker) compute(ctx context.Context, stored string, turn semaphore.Turn, compare func(Hash) (bool, error)) (bool, error) {
	h, err := Parse(stored)
	if err != nil || h.Locked() {
		return false, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(c.wait.Load()), ErrBusy)
	defer cancel()
	if h.large {
		if err := c.large.Acquire(ctx, turn); err != nil {
			return false, busy(err)
		}
		defer c.large.Release(turn)
	}
	if err := c.slots.Acquire(ctx, turn); err != nil {
		return false, busy(err)
	}
	defer c.slots.Release(turn)
	if record, ok := ctx.Value(traceKey{}).(func(Kind)); ok {
		record(h.Kind())
	}
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

// A Key makes MACs by which the process recognises a password that it has seen. It does
// not leave the process.
type Key [sha256.Size]byte

// NewKey returns a random key.
func NewKey() (k Key) {
	rand.Read(k[:]) // never fails: crypto/rand ends the process instead
	return k
}

// MAC returns 128 bits of the HMAC-SHA-256 of a password and what it belongs to: a login,
// or a stored hash. The length of the latter comes first, so that no other pair has the
// same MAC by having the same concatenation.
func (k Key) MAC(of, password string) [16]byte {
	h := hmac.New(sha256.New, k[:])
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(of)))
	h.Write(n[:])
	h.Write([]byte(of))
	h.Write([]byte(password))
	return [16]byte(h.Sum(nil))
}

// memoHalf is half of what a memo holds, at some 30 bytes each.
const memoHalf = 1 << 14

// A memo remembers that a password has matched a stored hash, so that the costly
// comparison is made once: a mail client logs in with every message. It is looked up by
// the hash as it is stored now, so that a changed password takes effect at once and no
// entry ever needs to expire. It holds only MACs, and mismatches are never remembered.
//
// It has two halves: when the young one is full, the old one is discarded. An entry that
// is found in the old one moves to the young one. It may be used by many goroutines at
// once.
type memo struct {
	key Key

	mu         sync.Mutex
	young, old map[[16]byte]struct{}
}

func newMemo() *memo { return &memo{key: NewKey(), young: make(map[[16]byte]struct{})} }

func (m *memo) has(mac [16]byte) bool {
	m.mu.Lock()
	_, young := m.young[mac]
	_, old := m.old[mac]
	m.mu.Unlock()
	if old && !young {
		m.add(mac)
	}
	return young || old
}

func (m *memo) add(mac [16]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.young) >= memoHalf {
		m.old, m.young = m.young, make(map[[16]byte]struct{})
	}
	m.young[mac] = struct{}{}
}
