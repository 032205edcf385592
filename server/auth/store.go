package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"time"

	"postern/server/auth/semaphore"
)

// StoreSpec is what a Store is made of.
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
// the backend, and its answers bear the name of the store. A panic of the backend is a
// temporary error. A Store may be used by many goroutines at once.
type Store struct {
	name   string
	config StoreConfig
	realm  string
	slots  *semaphore.Priority
	cache  *cache // nil: every login is passed to the backend
	events Events

	// The abilities of the backend; nil: it does not have this one.
	passwords PasswordVerifier
	keys      KeyStore
	checks    interface{ Check(context.Context) error }
	reloads   interface{ Reload(context.Context) error }
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
		slots: semaphore.New(s.Config.Concurrency), cache: newCache(s.Cache), events: s.Events,
	}
	store.passwords, _ = s.Backend.(PasswordVerifier)
	store.keys, _ = s.Backend.(KeyStore)
	store.checks, _ = s.Backend.(interface{ Check(context.Context) error })
	store.reloads, _ = s.Backend.(interface{ Reload(context.Context) error })
	store.closes, _ = s.Backend.(io.Closer)
	store.lists, _ = s.Backend.(interface {
		WithoutScramKeys() []string
		WithTooManyIterations() []string
	})
	return store
}

// Name returns the name of the store in the log.
func (s *Store) Name() string { return s.name }

// Check returns what prevents logins, if the backend can check itself.
func (s *Store) Check(ctx context.Context) error {
	if s.checks == nil {
		return nil
	}
	return s.checks.Check(ctx)
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

// LockedOutOfScram returns the users that cannot log in by SCRAM with every client, if the
// backend knows all of its users: those without keys, and those whose keys have more
// iterations than the clients that use Cyrus SASL compute.
func (s *Store) LockedOutOfScram() (withoutKeys, tooManyIterations []string) {
	if s.lists == nil {
		return nil, nil
	}
	return s.lists.WithoutScramKeys(), s.lists.WithTooManyIterations()
}

var (
	// ErrBusy is the cause of a temporary error: as many logins as the store's
	// concurrency allows are being verified, and none of them has ended in time.
	ErrBusy = errors.New("auth: too many logins are waiting for this store")

	errSlow      = errors.New("no answer within its timeout")
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
			return bounded(ctx, s, p.Known, func(ctx context.Context) (Identity, error) {
				return s.passwords.VerifyPassword(ctx, p, expanded, password)
			})
		})
	})
}

// ScramKeys implements KeyStore.
func (s *Store) ScramKeys(ctx context.Context, login string) (ScramKeys, error) {
	if s.keys == nil {
		return ScramKeys{}, &Unavailable{Store: s.name, Err: errNoAbility}
	}
	return ask(ctx, s, login, func(expanded string) (ScramKeys, error) {
		return bounded(ctx, s, false, func(ctx context.Context) (ScramKeys, error) {
			return s.keys.ScramKeys(ctx, expanded)
		})
	})
}

// ScramDecoy implements KeyStore. The backend must keep keys.
func (s *Store) ScramDecoy(login string) ScramDecoy {
	if expanded, why := s.config.Login.expand(login, s.realm); why == "" {
		login = expanded
	}
	return s.keys.ScramDecoy(login)
}

// An answer is what one ability of a backend returns for a login that it accepts.
type answer[T any] interface {
	user() string        // the canonical name
	from(store string) T // the same answer in the name of the store
}

func (id Identity) user() string { return id.User }

func (id Identity) from(store string) Identity {
	id.Store = store
	return id
}

func (k ScramKeys) user() string { return k.User }

func (k ScramKeys) from(store string) ScramKeys {
	k.Store = store
	return k
}

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
// call of a store of a [Chain], as soon as it has returned, by the goroutine that runs
// the exchange. The login in a StoreCall is the client's input and is not safe to print.
func WithTrace(ctx context.Context, record func(StoreCall)) context.Context {
	return context.WithValue(ctx, traceKey{}, record)
}

// ask calls call with the login in the form that the template gives it, and records the
// call if ctx has a trace. An error is a *Failure or an *Unavailable with the name of the
// store.
func ask[T answer[T]](ctx context.Context, s *Store, login string, call func(expanded string) (T, error)) (accepted T, err error) {
	c := StoreCall{Store: s.name}
	if expanded, why := s.config.Login.expand(login, s.realm); why != "" {
		c.Err = &Failure{Kind: NoSuchUser, Store: s.name, Reason: why, Err: errNotAsked}
	} else {
		begun := time.Now()
		c.Login = expanded
		accepted, err = call(expanded)
		c.Took = time.Since(begun)
		if err == nil {
			c.User, accepted = accepted.user(), accepted.from(s.name)
		} else {
			c.Err = annotate(err, func(store, _ *string) { *store = s.name })
		}
	}
	if record, ok := ctx.Value(traceKey{}).(func(StoreCall)); ok {
		record(c)
	}
	return accepted, c.Err
}

// bounded makes one call of the backend, whatever the ability. It waits for a slot, at
// most for the timeout of the store; clients that have logged in before (first) get
// theirs first. The call may take as long again. The deadline of ctx, that of the reply
// to the client, ends both waits earlier.
//
// A panic of the backend becomes an error: a broken backend must not end the process. The
// value of the panic may contain a password, so only its type is kept, or the text of an
// error of the runtime, which contains no data.
func bounded[T answer[T]](ctx context.Context, s *Store, first bool, call func(context.Context) (T, error)) (accepted T, err error) {
	var none T
	waiting, cancel := context.WithTimeoutCause(ctx, s.config.Timeout, ErrBusy)
	err = s.slots.Acquire(waiting, first)
	cancel()
	if err != nil {
		return none, outOfTime(ctx, "while the login waited for other logins at this store", err)
	}
	defer s.slots.Release()
	calling, cancel := context.WithTimeoutCause(ctx, s.config.Timeout, errSlow)
	defer cancel()
	defer func() {
		switch value := recover().(type) {
		case nil:
			return
		case runtime.Error:
			err = fmt.Errorf("panic: %v", value)
		default:
			err = fmt.Errorf("panic with a %T", value)
		}
		s.events.StorePanicked(s.name, err, debug.Stack())
	}()
	accepted, err = call(calling)
	switch {
	case err == nil && accepted.user() == "":
		return none, errNoUser
	case err == nil:
		return accepted, nil
	case asFailure(err) != nil:
		return none, err
	case errors.Is(context.Cause(calling), errSlow):
		err = fmt.Errorf("%w of %v: %w", errSlow, s.config.Timeout, err)
	}
	return none, outOfTime(ctx, "before the store answered", err)
}

// outOfTime adds to err where the login was when the deadline of ctx ended it.
func outOfTime(ctx context.Context, where string, err error) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("the time for the reply was over %s: %w", where, err)
}
