package auth

import (
	"container/list"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	knownFor      = 30 * 24 * time.Hour
	knownLogins   = 1 << 15 // logins remembered; at the worst 50 MiB
	knownPerLogin = 16      // addresses remembered for each
	knownPerUser  = 8       // logins remembered of one user
	knownMistakes = 10      // different wrong passwords that a pair may try
)

// knownPairs remembers which login has succeeded from which address. Logins are
// compared in lower case, since several spellings are one login to most stores.
//
// Only a right password adds a pair. Each login has room for a few addresses, and each
// user for a few logins: a store that is asked for the local part accepts alice@ with
// any domain after it, and another store any case or accents. So a user with one account
// cannot displace the pairs of other users.
type knownPairs struct {
	logins *lru[string, []knownPair]
	users  *lru[string, []string] // the logins of each, the oldest first
}

type knownPair struct {
	from     netip.Prefix
	last     time.Time
	mistakes int // different wrong passwords since last
}

func newKnownPairs() knownPairs {
	return knownPairs{newLRU[string, []knownPair](knownLogins), newLRU[string, []string](knownLogins)}
}

func (k knownPairs) has(login string, from netip.Prefix, now time.Time) bool {
	pairs, _ := k.logins.get(strings.ToLower(login))
	i := indexPair(pairs, from)
	return i >= 0 && now.Sub(pairs[i].last) < knownFor
}

// succeeded remembers the pair, and the login as one of the user's. Each replaces the
// oldest one if there is no room.
func (k knownPairs) succeeded(user, login string, from netip.Prefix, now time.Time) {
	login = strings.ToLower(login)
	logins, _ := k.users.get(user)
	logins = slices.DeleteFunc(logins, func(l string) bool { return l == login })
	if len(logins) == knownPerUser {
		k.logins.remove(logins[0])
		logins = slices.Delete(logins, 0, 1)
	}
	k.users.put(user, append(logins, login))

	pairs, _ := k.logins.get(login)
	if i := indexPair(pairs, from); i >= 0 {
		pairs = slices.Delete(pairs, i, i+1)
	}
	if len(pairs) == knownPerLogin {
		pairs = slices.Delete(pairs, 0, 1)
	}
	k.logins.put(login, append(pairs, knownPair{from: from, last: now}))
}

// mistaken counts a wrong password. A pair with too many of them is removed, or the
// neighbour of a user could guess without any delay.
func (k knownPairs) mistaken(login string, from netip.Prefix) {
	login = strings.ToLower(login)
	pairs, _ := k.logins.get(login)
	i := indexPair(pairs, from)
	if i < 0 {
		return
	}
	if pairs[i].mistakes++; pairs[i].mistakes >= knownMistakes {
		k.logins.put(login, slices.Delete(pairs, i, i+1))
	}
}

func indexPair(pairs []knownPair, from netip.Prefix) int {
	return slices.IndexFunc(pairs, func(p knownPair) bool { return p.from == from })
}

// An lru is a map of bounded size. When it is full, put removes the entry whose last put
// is the longest ago. It is not safe for use by several goroutines at once.
type lru[K comparable, V any] struct {
	limit int
	order list.List // of lruItem[K, V], the last put first
	items map[K]*list.Element
}

type lruItem[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit: limit, items: make(map[K]*list.Element)}
}

// get returns the value of key, and leaves the order of the entries as it is.
func (c *lru[K, V]) get(key K) (value V, ok bool) {
	e, ok := c.items[key]
	if !ok {
		return value, false
	}
	return e.Value.(lruItem[K, V]).value, true
}

// put sets the value of key, and removes the oldest entry if there are too many.
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
