package auth

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"postern/internal/lru"
	"postern/server/auth/hash"
)

// StoreSpec describes a Store.
type StoreSpec struct {
	Kind    string // the name, unless Config has one
	Config  StoreConfig
	Cache   CacheConfig // the zero value for no cache
	Realm   string      // Config.Realm
	Backend Backend
	Events  Events
}

// A Store is a backend with the settings of its table in the configuration: the form of the
// login, bounds on the time and the number of its calls, the cache. It has the abilities of
// the backend, and adds its name to the answers. A panic of the backend becomes a temporary
// error. A Store may be used by many goroutines at once.
type Store struct {
	name   string
	config StoreConfig
	realm  string
	calls  *Calls
	cache  *cache // nil: every login is passed to the backend
	events Events

	ignoresDomain bool // the backend may: see Backend

	// The abilities of the backend; nil if it does not have one.
	passwords PasswordVerifier
	keys      KeyStore
	checks    interface{ Check(context.Context) error }
	reloads   interface{ Reload(context.Context) error }
	remarks   interface{ Remarks() []Remark }
	closes    io.Closer
	lists     interface {
		WithoutScramKeys() []string
		WithTooManyIterations() []string
	}
}

// NewStore returns a Store with the abilities of s.Backend, which belongs to the store
// from now on.
func NewStore(s StoreSpec) *Store {
	store := &Store{
		name: cmp.Or(s.Config.Name, s.Kind), config: s.Config, realm: s.Realm,
		calls: NewCalls(s.Config.Timeout, s.Config.Concurrency), cache: newCache(s.Cache), events: s.Events,
	}
	if b, ok := s.Backend.(interface{ IgnoresDomain() bool }); ok {
		store.ignoresDomain = b.IgnoresDomain()
	}
	store.passwords, _ = s.Backend.(PasswordVerifier)
	store.keys, _ = s.Backend.(KeyStore)
	store.checks, _ = s.Backend.(interface{ Check(context.Context) error })
	store.reloads, _ = s.Backend.(interface{ Reload(context.Context) error })
	store.remarks, _ = s.Backend.(interface{ Remarks() []Remark })
	store.closes, _ = s.Backend.(io.Closer)
	store.lists, _ = s.Backend.(interface {
		WithoutScramKeys() []string
		WithTooManyIterations() []string
	})
	return store
}

// Name returns the name of the store in the log.
func (s *Store) Name() string { return s.name }

// Calls returns the bounds on the calls of the backend, for a backend that is also called by
// other means.
func (s *Store) Calls() *Calls { return s.calls }

// Check returns what prevents logins, if the backend can check itself.
func (s *Store) Check(ctx context.Context) error {
	if s.checks == nil {
		return nil
	}
	return s.checks.Check(ctx)
}

// Remarks returns what is worth knowing of the users, if the backend knows them.
func (s *Store) Remarks() []Remark {
	if s.remarks == nil {
		return nil
	}
	return s.remarks.Remarks()
}

// Reload makes the backend read its files again, if it has any.
func (s *Store) Reload(ctx context.Context) error {
	if s.reloads == nil {
		return nil
	}
	return s.reloads.Reload(ctx)
}

// Close closes the backend, if there is anything to close.
func (s *Store) Close() error {
	if s.closes == nil {
		return nil
	}
	return s.closes.Close()
}

// LockedOutOfScram returns the users for whom SCRAM fails, if the backend can list its
// users: with any client, those without keys; with clients that use Cyrus SASL, those whose
// keys have more iterations than Cyrus SASL accepts.
func (s *Store) LockedOutOfScram() (withoutKeys, tooManyIterations []string) {
	if s.lists == nil {
		return nil, nil
	}
	return s.lists.WithoutScramKeys(), s.lists.WithTooManyIterations()
}

var (
	errNoUser    = errors.New("the store accepted the login, but did not name the user")
	errNoAbility = errors.New("the store does not have this ability")
)

// VerifyPassword implements PasswordVerifier.
func (s *Store) VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error) {
	if s.passwords == nil {
		return Identity{}, &Unavailable{Store: s.name, Err: errNoAbility}
	}
	return ask(ctx, s, login, func(expanded string) (Identity, error) {
		return s.cache.verify(expanded, password, func() (Identity, error) {
			return bounded(ctx, s, p, expanded, func(ctx context.Context) (Identity, error) {
				id, err := s.passwords.VerifyPassword(ctx, p, expanded, password)
				id.Store = s.name
				return id, err
			})
		})
	})
}

// ScramKeys implements KeyStore.
func (s *Store) ScramKeys(ctx context.Context, p *Peer, login string) (ScramKeys, error) {
	if s.keys == nil {
		return ScramKeys{}, &Unavailable{Store: s.name, Err: errNoAbility}
	}
	return ask(ctx, s, login, func(expanded string) (ScramKeys, error) {
		return bounded(ctx, s, p, expanded, func(ctx context.Context) (ScramKeys, error) {
			keys, err := s.keys.ScramKeys(ctx, p, expanded)
			keys.Store = s.name
			return keys, err
		})
	})
}

// ScramDecoy implements KeyStore. The backend must keep keys.
func (s *Store) ScramDecoy(login string) ScramDecoy {
	if expanded, why := s.expand(login); why == "" {
		login = expanded
	}
	return s.keys.ScramDecoy(login)
}

// expand returns the login that the backend is asked for, or the reason why it is not asked.
func (s *Store) expand(login string) (expanded, why string) {
	expanded, why = s.config.Login.expand(login, s.realm)
	return s.config.Fold.Login(expanded), why
}

// folded returns the one spelling of a login that stands for all that the fold of the store
// makes equal. Without a fold it is the login itself.
func (s *Store) folded(login string) string {
	if s.config.Fold != FoldLower {
		return login
	}
	if expanded, why := s.expand(login); why == "" && s.config.Login.isWhole() {
		return expanded // with the default domain, which is folded, too
	}
	return s.config.Fold.Login(login)
}

// An answer is what one ability of a backend returns for a login that it accepts.
type answer interface {
	user() string // the canonical name
}

func (id Identity) user() string { return id.User }

func (k ScramKeys) user() string { return k.User }

// A StoreCall is one call of one store for one login, and the answer.
type StoreCall struct {
	Store string
	Login string        // as the backend got it; empty if the backend was not called
	Took  time.Duration // includes the wait for other logins
	User  string        // the canonical name after a success
	Err   error         // otherwise a *Failure or an *Unavailable
}

type traceKey struct{}

// WithTrace returns a context for [Exchange.Next] in which record is called for every
// call of a store of a [Chain], as soon as it has returned: by one goroutine at a time, and
// after the exchange has ended if the client has hung up. The login in a StoreCall is the client's input and is not safe to print.
func WithTrace(ctx context.Context, record func(StoreCall)) context.Context {
	return context.WithValue(ctx, traceKey{}, record)
}

// ask calls call with the login in the form that the template gives it, and records the
// call if ctx has a trace. An error is a *Failure or an *Unavailable with the name of the
// store.
func ask[T answer](ctx context.Context, s *Store, login string, call func(expanded string) (T, error)) (accepted T, err error) {
	c := StoreCall{Store: s.name}
	if expanded, why := s.expand(login); why != "" {
		c.Err = &Failure{Kind: NoSuchUser, Store: s.name, Reason: why, Err: errNotAsked}
	} else {
		begun := time.Now()
		c.Login = expanded
		accepted, err = call(expanded)
		c.Took = time.Since(begun)
		if err == nil {
			c.User = accepted.user()
		} else {
			c.Err = annotate(err, func(store, _ *string) { *store = s.name })
		}
	}
	if record, ok := ctx.Value(traceKey{}).(func(StoreCall)); ok {
		record(c)
	}
	return accepted, c.Err
}

// bounded makes one call of the backend, whatever the ability, within the bounds of
// [Calls.Do].
func bounded[T answer](ctx context.Context, s *Store, p *Peer, login string, call func(context.Context) (T, error)) (T, error) {
	var accepted, none T
	err := s.calls.Do(ctx, p, login, func(ctx context.Context) (err error) {
		defer s.recoverPanic(&err)
		accepted, err = call(ctx)
		if err == nil && accepted.user() == "" {
			err = errNoUser
		}
		return err
	})
	if err != nil {
		return none, err
	}
	return accepted, nil
}

// recoverPanic turns a panic of the backend into an error: a broken backend must not end the
// process. The value of the panic may contain a password, so only its type is kept, or the
// text of an error of the runtime, which contains no data.
func (s *Store) recoverPanic(err *error) {
	switch value := recover().(type) {
	case nil:
		return
	case runtime.Error:
		*err = fmt.Errorf("panic: %v", value)
	default:
		*err = fmt.Errorf("panic with a %T", value)
	}
	s.events.StorePanicked(s.name, *err, debug.Stack())
}

// CacheConfig is the table "cache" of a store that cannot show its hashes: PAM, saslauthd,
// LDAP. Within TTL of a login that has succeeded, the same login with the same password
// succeeds again, from any client address, without a call of the store, even if the account
// has been closed since. By default both times are zero, and nothing is cached.
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

// newCache returns a cache, or nil if both times are zero.
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
	// Only after the call, because the store may have refused another attempt in the
	// meantime.
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
