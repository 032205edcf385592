package auth

import (
	"crypto/subtle"
	"slices"
	"sync"
	"time"

	"postern/internal/lru"
	"postern/server/auth/hash"
)

// CacheConfig is the table "cache" of a store that cannot show its hashes: PAM,
// saslauthd, LDAP. Within TTL of a login that has succeeded, the same login with the same
// password succeeds again without the store being asked, although the account may have
// been closed since, and from every client address. Both times are zero by default, and
// nothing is remembered.
type CacheConfig struct {
	// TTL is how long a password that the store has accepted is accepted without
	// asking the store.
	TTL time.Duration `toml:"ttl"`

	// StaleWhileDown is how long a password that the store has accepted is accepted
	// while the store cannot answer. An answer of the store always has precedence.
	StaleWhileDown time.Duration `toml:"stale_while_down"`
}

// Validate calls bad for each value that is not valid, with its key relative to the
// table.
func (c *CacheConfig) Validate(bad func(key, why string)) {
	const maxTTL = 24 * time.Hour
	if c.TTL < 0 || c.TTL > maxTTL {
		bad("ttl", `must be between "0s" (off) and "24h"; it is how long a closed account goes on working`)
	}
	switch {
	case c.StaleWhileDown < 0 || c.StaleWhileDown > 7*maxTTL:
		bad("stale_while_down", `must be between "0s" (off) and "168h"`)
	case c.StaleWhileDown > 0 && c.StaleWhileDown <= c.TTL:
		bad("stale_while_down", "must be longer than ttl, or it changes nothing")
	}
}

const (
	cacheLogins   = 1 << 14 // remembered at once; at the worst some 20 MiB
	cachePerLogin = 4       // passwords of one login; some directories allow several
)

// A cache remembers which passwords a store has accepted. Each store has a separate one,
// with a separate key, and each login has separate entries: neither two stores nor two
// users can be confused. Only accepted passwords are remembered, as MACs; any other
// password is passed to the store, and whenever the store refuses a login, all entries of
// that login are removed.
type cache struct {
	config CacheConfig
	key    hash.Key

	mu     sync.Mutex
	logins *lru.Map[string, []success]
}

// A success is a password that the store has accepted.
type success struct {
	mac  [16]byte
	id   Identity
	when time.Time // the store was asked
}

// newCache returns a cache, or nil if the configuration wants none.
func newCache(config CacheConfig) *cache {
	if config.TTL <= 0 && config.StaleWhileDown <= 0 {
		return nil
	}
	return &cache{config: config, key: hash.NewKey(), logins: lru.New[string, []success](cacheLogins)}
}

// verify returns a remembered success, or what call returns, which asks the store. A nil
// cache always asks the store.
func (c *cache) verify(login, password string, call func() (Identity, error)) (Identity, error) {
	if c == nil {
		return call()
	}
	mac := c.key.MAC(login, password)
	if id, ok := c.recall(login, mac, c.config.TTL); ok {
		return id, nil
	}
	asked := time.Now()
	id, err := call()
	switch {
	case err == nil:
		c.remember(login, success{mac, id, asked})
		return id, nil
	case asFailure(err) != nil:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.logins.Remove(login)
		return Identity{}, err
	}
	// Only now, since the store may have refused another attempt meanwhile.
	if id, ok := c.recall(login, mac, c.config.StaleWhileDown); ok {
		return id, nil
	}
	return Identity{}, err
}

// recall returns a success that is younger than age.
func (c *cache) recall(login string, mac [16]byte, age time.Duration) (Identity, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, _ := c.logins.Get(login)
	for _, s := range known {
		if subtle.ConstantTimeCompare(s.mac[:], mac[:]) == 1 && time.Since(s.when) < age {
			return s.id, true
		}
	}
	return Identity{}, false
}

// remember keeps a success. If there is no room, it replaces the oldest of the login.
func (c *cache) remember(login string, now success) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, _ := c.logins.Get(login)
	kept := slices.DeleteFunc(slices.Clone(known), func(s success) bool { return s.mac == now.mac })
	if len(kept) == cachePerLogin {
		kept = kept[1:]
	}
	c.logins.Put(login, append(kept, now))
}
