package auth

import "container/list"

// An lru is a map of bounded size that forgets what has not been touched for
// longest. It is not safe for use by several goroutines at once.
type lru[K comparable, V any] struct {
	limit int
	order list.List // of lruItem[K, V]; the last touched in front
	items map[K]*list.Element
}

type lruItem[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit: limit, items: make(map[K]*list.Element)}
}

// get returns the value of key and does not touch it.
func (c *lru[K, V]) get(key K) (value V, ok bool) {
	e, ok := c.items[key]
	if !ok {
		return value, false
	}
	return e.Value.(lruItem[K, V]).value, true
}

// put sets the value of key and touches it.
func (c *lru[K, V]) put(key K, value V) {
	c.remove(key)
	c.items[key] = c.order.PushFront(lruItem[K, V]{key, value})
	if oldest := c.order.Back(); len(c.items) > c.limit {
		c.remove(oldest.Value.(lruItem[K, V]).key)
	}
}

func (c *lru[K, V]) remove(key K) {
	if e, ok := c.items[key]; ok {
		c.order.Remove(e)
		delete(c.items, key)
	}
}
