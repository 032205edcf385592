package auth

import (
	"context"
	"crypto/subtle"
	"slices"
	"sync"
	"time"

	"postern/internal/lru"
	"postern/server/auth/hash"
)

// CacheConfig is the table "cache" of a store that can only be asked: PAM,
// saslauthd, LDAP. What a cache answers, the store is not asked: within TTL of a
// login that has succeeded, the same login with the same password succeeds again,
// although the account may be closed by then, and wherever the client comes from.
// Both times are zero, and nothing is remembered, unless the configuration says
// otherwise.
type CacheConfig struct {
	// TTL is how long a right password is right without asking again.
	TTL time.Duration `toml:"ttl"`

	// StaleWhileDown is how long ago a login may have succeeded to do so again
	// while the store cannot tell. A store that answers is always believed.
	StaleWhileDown time.Duration `toml:"stale_while_down"`
}

// Validate reports each value that makes no sense, with its key relative to the
// table.
func (c *CacheConfig) Validate(bad func(key, why string)) {
	const most = 24 * time.Hour
	if c.TTL < 0 || c.TTL > most {
		bad("ttl", `must be between "0s" (off) and "24h"; it is how long a closed account goes on working`)
	}
	switch {
	case c.StaleWhileDown < 0 || c.StaleWhileDown > 7*most:
		bad("stale_while_down", `must be between "0s" (off) and "168h"`)
	case c.StaleWhileDown > 0 && c.StaleWhileDown <= c.TTL:
		bad("stale_while_down", "must be longer than ttl, or it changes nothing")
	}
}

func (c CacheConfig) on() bool { return c.TTL > 0 || c.StaleWhileDown > 0 }

const (
	cacheLogins   = 1 << 14 // remembered at once; at the worst some 20 MiB
	cachePerLogin = 4       // passwords of one login, which a directory may allow
)

// cached remembers which passwords a store has accepted. Each store has its own,
// with a key of its own, and each login its own entries in it: neither two stores
// nor two users can be taken for each other. Only what was right is remembered, as
// HMAC; another password is always a question to the store, and whenever the store
// refuses a login, all of its entries go.
type cached struct {
	config CacheConfig
	store  PasswordVerifier
	key    hash.Key

	mu     sync.Mutex
	logins *lru.Map[string, []success]
}

// A success is a password that the store has accepted.
type success struct {
	mac  [16]byte
	id   Identity
	when time.Time // it was asked
}

func newCached(config CacheConfig, store PasswordVerifier) *cached {
	return &cached{config: config, store: store, key: hash.NewKey(), logins: lru.New[string, []success](cacheLogins)}
}

// VerifyPassword implements PasswordVerifier.
func (c *cached) VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error) {
	mac := c.key.MAC(login, password)
	if id, ok := c.recall(login, mac, c.config.TTL); ok {
		return id, nil
	}
	asked := time.Now()
	id, err := c.store.VerifyPassword(ctx, p, login, password)
	switch {
	case err == nil:
		c.remember(login, success{mac, id, asked})
		return id, nil
	case asFailure(err) != nil:
		c.forget(login)
	default:
		// Looked up after the question, since another login may have been refused
		// meanwhile.
		if id, ok := c.recall(login, mac, c.config.StaleWhileDown); ok {
			return id, nil
		}
	}
	return Identity{}, err
}

// recall finds a success that is younger than age.
func (c *cached) recall(login string, mac [16]byte, age time.Duration) (Identity, bool) {
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

// remember keeps a success, in place of the oldest of its login if there is no
// room.
func (c *cached) remember(login string, now success) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, _ := c.logins.Get(login)
	kept := slices.DeleteFunc(slices.Clone(known), func(s success) bool { return s.mac == now.mac })
	if len(kept) == cachePerLogin {
		kept = kept[1:]
	}
	c.logins.Put(login, append(kept, now))
}

func (c *cached) forget(login string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logins.Remove(login)
}
