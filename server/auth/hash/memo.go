package hash

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

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
