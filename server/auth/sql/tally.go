package sql

import "sync"

// maxTally is how many different things are counted; a database has few schemes.
const maxTally = 32

// A tally finds what most logins have. It may be used by many goroutines at
// once.
type tally[K comparable, V any] struct {
	mu     sync.Mutex
	counts map[K]int
	most   K
	value  V // the first that was seen of most
}

// saw counts one more.
func (t *tally[K, V]) saw(key K, value V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = make(map[K]int)
	}
	if _, known := t.counts[key]; !known && len(t.counts) == maxTally {
		return
	}
	t.counts[key]++
	if first := len(t.counts) == 1 && t.counts[key] == 1; first || key != t.most && t.counts[key] > t.counts[t.most] {
		t.most, t.value = key, value
	}
}

// commonest returns what was seen most often, or instead if nothing was.
func (t *tally[K, V]) commonest(instead V) V {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.counts) == 0 {
		return instead
	}
	return t.value
}
