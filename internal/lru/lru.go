// Package lru is a map of bounded size, for state that clients can make grow.
package lru

import (
	"container/list"
	"iter"
)

// A Map holds at most a fixed number of entries. When it is full, Put removes the entry
// that was put least recently. A Get does not change the order: an entry is kept for its
// last change, not for being asked about. A Map may not be used by several goroutines
// at once.
type Map[K comparable, V any] struct {
	limit int
	order list.List // of entry[K, V], the last put first
	items map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// New returns an empty Map for at most limit entries, which must be at least 1.
func New[K comparable, V any](limit int) *Map[K, V] {
	return &Map[K, V]{limit: limit, items: make(map[K]*list.Element)}
}

// Len returns the number of entries.
func (m *Map[K, V]) Len() int { return len(m.items) }

// Get returns the value of key, and whether there is one.
func (m *Map[K, V]) Get(key K) (value V, ok bool) {
	e, ok := m.items[key]
	if !ok {
		return value, false
	}
	return e.Value.(entry[K, V]).value, true
}

// Put sets the value of key, and removes the oldest entry if there are more than the
// limit.
func (m *Map[K, V]) Put(key K, value V) {
	m.Remove(key)
	m.items[key] = m.order.PushFront(entry[K, V]{key, value})
	if len(m.items) > m.limit {
		m.Remove(m.order.Back().Value.(entry[K, V]).key)
	}
}

// Remove removes the entry of key, if there is one.
func (m *Map[K, V]) Remove(key K) {
	if e, ok := m.items[key]; ok {
		m.order.Remove(e)
		delete(m.items, key)
	}
}

// All returns the entries, the one that was put least recently first. The map must not be
// changed meanwhile.
func (m *Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for e := m.order.Back(); e != nil; e = e.Prev() {
			if at := e.Value.(entry[K, V]); !yield(at.key, at.value) {
				return
			}
		}
	}
}
