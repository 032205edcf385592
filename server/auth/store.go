package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"postern/server/auth/semaphore"
)

// StoreConfig is what every table [[auth.stores]] takes, whatever its kind.
type StoreConfig struct {
	// Name is the name of the store in the log. The default is the kind; several
	// stores of one kind need names.
	Name string `toml:"name"`

	// Login is the template of the login that the store is asked about.
	Login LoginTemplate `toml:"login"`

	// Timeout is how long the store has to answer; where it hashes the password
	// itself, Config.HashWait included. A login waits as long once more, at the
	// most, for its turn to be asked about.
	Timeout time.Duration `toml:"timeout"`

	// Concurrency is the number of logins that the store is asked about at once.
	Concurrency int `toml:"concurrency"`

	// OnFailure is whether the stores after this one are asked when it has refused a
	// login; see Chain.
	OnFailure OnFailure `toml:"on_failure"`
}

// StoreDefaults returns the values of keys that the table leaves out.
func StoreDefaults() StoreConfig {
	return StoreConfig{Login: wholeLogin, Timeout: 10 * time.Second, Concurrency: 20}
}

var storeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

// Validate reports each value that makes no sense, with its key relative to the
// table.
func (c *StoreConfig) Validate(bad func(key, why string)) {
	if c.Name != "" && !storeName.MatchString(c.Name) {
		bad("name", "must be up to 32 letters, digits, dots, dashes and underscores; it stands in the log")
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > chainTime {
		bad("timeout", fmt.Sprintf(`must be between "100ms" and "%v", so that a client is still there when the answer comes`, chainTime))
	}
	if c.Concurrency < 1 || c.Concurrency > 1000 {
		bad("concurrency", "must be between 1 and 1000")
	}
}

// OnFailure is when a store that has refused a login ends the search.
type OnFailure string

// The values of on_failure; see Chain.
const (
	OnFailureByKind OnFailure = ""
	OnFailureNext   OnFailure = "next"
	OnFailureStop   OnFailure = "stop"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *OnFailure) UnmarshalText(text []byte) error {
	switch v := OnFailure(text); v {
	case OnFailureNext, OnFailureStop:
		*o = v
		return nil
	}
	return fmt.Errorf(`%q is not known; write "next" (always ask the next store), "stop" (never), or leave the key out`, text)
}

// StoreSpec is what a Store is made of.
type StoreSpec struct {
	Kind    string // the name, unless Config has one
	Config  StoreConfig
	Cache   CacheConfig // its zero value for stores that need none
	Realm   string      // Config.Realm
	Backend PasswordVerifier
	Events  Events
}

// A Store is a backend as the configuration wants it to be asked: which login, by
// how many at once, for how long. It answers under its own name. It may be used
// by many goroutines at once.
type Store struct {
	name     string
	config   StoreConfig
	realm    string
	bounded  *bounded
	verifier PasswordVerifier // bounded, or the cache over it
}

var _ PasswordVerifier = (*Store)(nil)

// NewStore wraps a backend, which belongs to the store from now on.
func NewStore(s StoreSpec) *Store {
	name := s.Config.Name
	if name == "" {
		name = s.Kind
	}
	b := &bounded{
		name: name, timeout: s.Config.Timeout, slots: semaphore.New(s.Config.Concurrency),
		events: s.Events, backend: s.Backend,
	}
	store := &Store{name: name, config: s.Config, realm: s.Realm, bounded: b, verifier: b}
	if s.Cache.on() {
		store.verifier = newCached(s.Cache, b)
	}
	return store
}

// Name returns the name of the store in the log.
func (s *Store) Name() string { return s.name }

// VerifyPassword implements PasswordVerifier.
func (s *Store) VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error) {
	var id Identity
	err := s.ask(ctx, login, func(asked string) (user string, err error) {
		id, err = s.verifier.VerifyPassword(ctx, p, asked, password)
		return id.User, err
	})
	if err != nil {
		return Identity{}, err
	}
	id.Store = s.name
	return id, nil
}

// keeper returns the backend as one that keeps keys, if it does.
func (s *Store) keeper() (KeyStore, bool) {
	k, ok := s.bounded.backend.(KeyStore)
	return k, ok
}

// scramKeys asks a backend that keeps keys.
func (s *Store) scramKeys(ctx context.Context, k KeyStore, login string) (ScramKeys, error) {
	var keys ScramKeys
	err := s.ask(ctx, login, func(asked string) (user string, err error) {
		keys, err = s.bounded.scramKeys(ctx, k, asked)
		return keys.User, err
	})
	if err != nil {
		return ScramKeys{}, err
	}
	keys.Store = s.name
	return keys, nil
}

// scramDecoy asks a backend for the decoy of an unknown user.
func (s *Store) scramDecoy(k KeyStore, login string) ScramDecoy {
	if asked, why := s.config.Login.expand(login, s.realm); why == "" {
		login = asked
	}
	return k.ScramDecoy(login)
}

// A Question is one request to one store for one login, and the answer.
type Question struct {
	Store string
	Login string        // as the store got it; empty if it was not asked
	Took  time.Duration // includes the wait for other logins
	User  string        // the canonical name after a success
	Err   error         // otherwise a *Failure or an *Unavailable
}

type traceKey struct{}

// WithTrace returns a context for [Exchange.Next] in which trace is called for every
// question to a store of a [Chain], as soon as it is answered, by the goroutine
// that runs the exchange. The login in a question is the client's input and is not safe
// to print.
func WithTrace(ctx context.Context, trace func(Question)) context.Context {
	return context.WithValue(ctx, traceKey{}, trace)
}

// ask passes the login, in the form that the template makes of it, to question, and the
// answer to the trace function of ctx. An error is a *Failure or an *Unavailable with
// the store's name.
func (s *Store) ask(ctx context.Context, login string, question func(asked string) (user string, err error)) error {
	q := Question{Store: s.name}
	if asked, why := s.config.Login.expand(login, s.realm); why != "" {
		q.Err = &Failure{Kind: NoSuchUser, Store: s.name, Reason: why, Err: errNotAsked}
	} else {
		begun := time.Now()
		q.Login = asked
		q.User, q.Err = question(asked)
		q.Took = time.Since(begun)
		if q.Err != nil {
			q.Err = s.sign(q.Err)
		}
	}
	if trace, ok := ctx.Value(traceKey{}).(func(Question)); ok {
		trace(q)
	}
	return q.Err
}

// sign returns err as a *Failure or an *Unavailable with the store's name. The backend's
// value is not changed, as it may be shared.
func (s *Store) sign(err error) error {
	if f := asFailure(err); f != nil {
		signed := *f
		signed.Store = s.name
		return &signed
	}
	if u, ok := errors.AsType[*Unavailable](err); ok {
		signed := *u
		signed.Store = s.name
		return &signed
	}
	return &Unavailable{Store: s.name, Err: err}
}

// Check returns what is wrong with the backend, if the backend can check itself.
func (s *Store) Check(ctx context.Context) error {
	if c, ok := s.bounded.backend.(interface{ Check(context.Context) error }); ok {
		return c.Check(ctx)
	}
	return nil
}

// Reload makes the backend read its files again, if it has any.
func (s *Store) Reload(ctx context.Context) error {
	if r, ok := s.bounded.backend.(interface{ Reload(context.Context) error }); ok {
		return r.Reload(ctx)
	}
	return nil
}

// Close closes the backend, if it has something to close.
func (s *Store) Close() error {
	if c, ok := s.bounded.backend.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
