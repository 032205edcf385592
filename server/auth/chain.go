package auth

import (
	"context"
	"errors"
	"time"
)

// chainTime bounds the search through all stores. RFC 6409, section 5.3: a client
// gets its answer within two minutes. Before the search it may have waited for a
// penalty (Config.PenaltyWait), and Prepared may ask twice.
const chainTime = 25 * time.Second

var (
	errNoStores = errors.New("there are no stores")
	errTooLate  = errors.New("the stores before it took too long")

	// errNotAsked is the cause when the login template kept a question back.
	errNotAsked = errors.New("not asked")
)

// A Chain is auth.stores: stores that are asked one after the other, until one
// of them has decided. It answers as one PasswordVerifier.
//
// Yes ends the search, and so does a Failure of a store that knows the user:
// BadPassword, Disabled, Expired, NotAllowed. NoSuchUser and Unknowable leave the
// question to the next store. OnFailure of a store overrides that: with "next" the
// search always goes on, with "stop" it ends with this store. If the last store has
// not said yes, the answer is the no that knew most: of two alike, the first.
//
// A store that cannot tell (down, slow, busy, broken) does not end the search,
// unless its OnFailure is "stop": those whom another store knows go on working. But
// as long as one that was asked might have said yes, nobody hears a no: whatever the
// others say, wrong password or no such user, the answer is an *Unavailable, which
// is temporary. A wrong password at a store that answers still counts as a guess
// (Unavailable.Refused), or an outage would be the time to guess.
//
// So, while a store is down, the ones behind it decide alone. A login that stands
// in two stores, with another password or in another state, is what the second one
// says then: who closes an account closes it in all stores that hold it. A store
// with "stop" is never passed over like that, and has nobody behind it.
//
// A login that the template of a store does not fit is not a question to it: the
// search goes on, whatever its OnFailure.
//
// How long an answer takes tells how many stores were asked for it. Its methods may
// be called by many sessions at once.
type Chain []*Store

var _ PasswordVerifier = Chain(nil)

// VerifyPassword implements PasswordVerifier.
func (c Chain) VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error) {
	return search(ctx, c, func(ctx context.Context, s *Store) (Identity, error) {
		return s.VerifyPassword(ctx, p, login, password)
	})
}

// search asks the stores for an answer of any kind.
func search[T any](ctx context.Context, stores Chain, ask func(context.Context, *Store) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, chainTime, errTooLate)
	defer cancel()
	var heard verdict
	for _, s := range stores {
		answer, err := ask(ctx, s)
		if err == nil {
			return answer, nil
		}
		heard.add(err)
		if s.ends(err) {
			break
		}
	}
	var none T
	return none, heard.err()
}

// ends reports whether this answer of the store, which is not yes, is the last.
func (s *Store) ends(err error) bool {
	switch {
	case errors.Is(err, errNotAsked) || s.config.OnFailure == OnFailureNext:
		return false
	case s.config.OnFailure == OnFailureStop:
		return true
	}
	f := asFailure(err)
	return f != nil && f.Kind != NoSuchUser && f.Kind != Unknowable
}

// A verdict is what stores have said that did not say yes.
type verdict struct {
	down *Unavailable // the first that could not tell
	no   *Failure     // the one that knew most
}

// knowledge orders the kinds of failures by how much a store must know to say so.
func knowledge(k FailureKind) int {
	switch k {
	case NoSuchUser:
		return 0
	case Unknowable:
		return 1
	case BadPassword:
		return 2
	}
	return 3 // the password is right
}

func (v *verdict) add(err error) {
	if f := asFailure(err); f != nil {
		if v.no == nil || knowledge(f.Kind) > knowledge(v.no.Kind) {
			v.no = f
		}
		return
	}
	if v.down != nil {
		return
	}
	if u, ok := errors.AsType[*Unavailable](err); ok {
		v.down = u
		return
	}
	v.down = &Unavailable{Err: err}
}

func (v *verdict) err() error {
	switch {
	case v.down != nil:
		down := *v.down
		down.Refused = v.no
		return &down
	case v.no != nil:
		return v.no
	}
	return &Unavailable{Err: errNoStores}
}

// Keys returns the chain as a KeyStore, or nil if it cannot be one. It consists
// of the stores before the first one that keeps no keys: a store that cannot be
// asked by SCRAM is not passed over, for it might refuse whom a later one lets
// in.
func (c Chain) Keys() KeyStore {
	var keepers keyChain
	for _, s := range c {
		if _, ok := s.keeper(); !ok {
			break
		}
		keepers = append(keepers, s)
	}
	if len(keepers) == 0 {
		return nil
	}
	return keepers
}

// keyChain is a Chain of stores that keep keys, and of one at least.
type keyChain Chain

// ScramKeys implements KeyStore.
func (c keyChain) ScramKeys(ctx context.Context, login string) (ScramKeys, error) {
	return search(ctx, Chain(c), func(ctx context.Context, s *Store) (ScramKeys, error) {
		k, _ := s.keeper()
		return s.scramKeys(ctx, k, login)
	})
}

// ScramDecoy implements KeyStore. Unknown users look like those of the first
// store.
func (c keyChain) ScramDecoy(login string) ScramDecoy {
	k, _ := c[0].keeper()
	return c[0].scramDecoy(k, login)
}

// Reload makes every store look again at what it was made of, where it can.
func (c Chain) Reload(ctx context.Context) error {
	var errs []error
	for _, s := range c {
		if err := s.Reload(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Close closes all stores.
func (c Chain) Close() error {
	var errs []error
	for _, s := range c {
		if err := s.Close(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
