package hash

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

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
	defer m.mu.Unlock()
	if _, ok := m.young[mac]; ok {
		return true
	}
	_, ok := m.old[mac]
	if ok {
		m.remember(mac)
	}
	return ok
}

func (m *memo) add(mac memoMAC) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remember(mac)
}

func (m *memo) remember(mac memoMAC) {
	if len(m.young) >= memoHalf {
		m.old, m.young = m.young, make(map[memoMAC]struct{})
	}
	m.young[mac] = struct{}{}
}
