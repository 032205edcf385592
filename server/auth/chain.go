package auth

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	errNoStores = errors.New("there are no stores")

	// errNotAsked is the cause of a Failure if the login template does not fit the
	// login, so that the store was not asked.
	errNotAsked = errors.New("not asked")
)

// A Chain is auth.stores: stores that are asked one after the other, until one of them
// has decided. Each ability is a separate view of the chain, [Chain.Passwords] and
// [Chain.Keys], over the stores that have it.
//
// A store that accepts the login ends the search, and so does a Failure of a store that
// knows the user: BadPassword, Disabled, Expired, NotAllowed. After NoSuchUser and
// Unknowable the next store is asked. OnFailure of a store overrides that: with "next"
// the search always goes on, with "stop" it ends with this store. If no store accepts the
// login, the result is the Failure of the store that knew most, of two alike the first.
//
// A store that does not answer (down, slow, busy, broken) does not end the search, unless
// its OnFailure is "stop": the users of the other stores can still log in. But as long as
// a store that did not answer might have accepted the login, the result is an
// *Unavailable, which is temporary, whatever the other stores answer. A wrong password at
// a store that answers still counts as a guess (Unavailable.Refused), otherwise an outage
// would be the best time to guess.
//
// So while a store is down, the stores after it decide alone. If two stores have the same
// login, with different passwords or in a different state, the second one decides then:
// an account must be closed in every store that has it. A store with "stop" is never
// skipped like that, and the stores after it are not asked.
//
// If the template of a store does not fit the login, the store is not asked, and the
// search goes on, whatever its OnFailure.
//
// The time of the answer shows how many stores were asked. The only bound of the whole
// search is the deadline of the context, that of the reply to the client. The methods may
// be called by many sessions at once.
type Chain []*Store

// Passwords returns the stores that verify passwords as one PasswordVerifier, or nil if
// there are none.
func (c Chain) Passwords() PasswordVerifier {
	var stores passwordChain
	for _, s := range c {
		if s.passwords != nil {
			stores = append(stores, s)
		}
	}
	if len(stores) == 0 {
		return nil
	}
	return stores
}

// Keys returns the stores before the first one that keeps no keys as one KeyStore, or nil
// if there are none. A store without keys ends the list, because it might refuse a user
// that a later store accepts.
func (c Chain) Keys() KeyStore {
	var stores keyChain
	for _, s := range c {
		if s.keys == nil {
			break
		}
		stores = append(stores, s)
	}
	if len(stores) == 0 {
		return nil
	}
	return stores
}

type passwordChain []*Store

// VerifyPassword implements PasswordVerifier.
func (c passwordChain) VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error) {
	return search(ctx, c, func(s *Store) (Identity, error) { return s.VerifyPassword(ctx, p, login, password) })
}

type keyChain []*Store

// ScramKeys implements KeyStore.
func (c keyChain) ScramKeys(ctx context.Context, p *Peer, login string) (ScramKeys, error) {
	return search(ctx, c, func(s *Store) (ScramKeys, error) {
		keys, err := s.ScramKeys(ctx, p, login)
		if err == nil && c.ScramDecoy(login).Login != c.ScramDecoy(s.folded(login)).Login {
			return ScramKeys{}, &Failure{Kind: BadPassword, Store: s.name, Reason: otherSpelling}
		}
		return keys, err
	})
}

// otherSpelling is the reason why a store that folds logins gives no keys for one that is not
// folded, while another store with keys distinguishes the two. Unknown logins have two decoys
// then, so the same salt for both would show that there is such a user. It ends the search, as
// the wrong password does for such a login.
const otherSpelling = "SCRAM needs the login in lower case, since not all stores with SCRAM keys ignore case; set the same fold for all of them"

// ScramDecoy implements KeyStore. Unknown users look like those of the first store. Two logins
// have the same decoy only if no store distinguishes them: otherwise one of them could have
// real keys, and two salts would show that.
func (c keyChain) ScramDecoy(login string) ScramDecoy {
	decoy := c[0].ScramDecoy(login)
	for _, s := range c[1:] {
		decoy.Login += "\x00" + s.ScramDecoy(login).Login
	}
	return decoy
}

// search asks one store after the other for an answer of any kind.
func search[T any](ctx context.Context, stores []*Store, call func(*Store) (T, error)) (none T, _ error) {
	var all refusals
	for _, s := range stores {
		if ctx.Err() != nil { // this store or a later one might have accepted the login
			err := outOfTime(ctx, "before this store was asked", context.Cause(ctx))
			all.add(&Unavailable{Store: s.name, Err: err})
			break
		}
		accepted, err := call(s)
		if err == nil {
			return accepted, nil
		}
		all.add(err)
		if s.endsSearch(err) {
			break
		}
	}
	return none, all.err()
}

// endsSearch reports whether no further store is asked after this one has not accepted the
// login.
func (s *Store) endsSearch(err error) bool {
	switch {
	case errors.Is(err, errNotAsked) || s.config.OnFailure == OnFailureNext:
		return false
	case s.config.OnFailure == OnFailureStop:
		return true
	}
	f := asFailure(err)
	return f != nil && f.Kind != NoSuchUser && f.Kind != Unknowable
}

// refusals collects the answers of stores that have not accepted a login.
type refusals struct {
	unavailable *Unavailable // of the first store that did not answer
	unanswered  bool         // Unavailable.Unanswered of any store
	failure     *Failure     // of the store that knew most
}

func (r *refusals) add(err error) {
	f := asFailure(err)
	u, ok := errors.AsType[*Unavailable](err)
	r.unanswered = r.unanswered || ok && u.Unanswered
	switch {
	case f != nil:
		if r.failure == nil || certainty(f.Kind) > certainty(r.failure.Kind) {
			r.failure = f
		}
	case r.unavailable != nil:
	case ok:
		r.unavailable = u
	default:
		r.unavailable = &Unavailable{Err: err}
	}
}

// certainty orders the kinds of failures by how much a store must know for them.
func certainty(k FailureKind) int {
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

// err returns the result of the search.
func (r *refusals) err() error {
	switch {
	case r.unavailable != nil:
		u := *r.unavailable
		u.Refused, u.Unanswered = r.failure, r.unanswered
		return &u
	case r.failure != nil:
		return r.failure
	}
	return &Unavailable{Err: errNoStores}
}

// Reload makes every store read its files again, if it has any.
func (c Chain) Reload(ctx context.Context) error {
	var errs []error
	for _, s := range c {
		errs = append(errs, s.Reload(ctx))
	}
	return errors.Join(errs...)
}

// Close closes all stores.
func (c Chain) Close() error {
	var errs []error
	for _, s := range c {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// A LoginTemplate makes the login for a store from the login of the client. "{user}" is the
// whole login, "{local}" the part before its last "@", "{domain}" the part after it; all
// other text is kept. The empty template is "{user}".
//
// A login without a domain gets the default domain (Config.Realm), if there is one, in
// "{user}" and "{domain}". If the login lacks a part that the template names, the store is
// not asked, and the user counts as unknown to it.
//
// A template without {user} and {domain} drops the domain. If there is a default domain,
// its store is asked for the logins of that domain only: foo@example.net is a different
// user than foo of example.org, whose store must get neither the password nor the failures
// of foo@example.net. Without a default domain the store is asked for foo, whatever the
// domain.
//
// The template changes only what the store is asked. The canonical name is the one that the
// store returns; neither the client's domain nor the default one is added, otherwise the
// user foo of one store could choose to be foo@example.net of another one. Logins from which
// the template makes the same text are one user of that store, with one password and one
// name. Stores that have users without a domain share their names: foo of one store is foo
// of the other.
type LoginTemplate string

const (
	wholeLogin  = "{user}"
	localPart   = "{local}"
	loginDomain = "{domain}"

	maxTemplate = 256 // bytes
)

var braces = regexp.MustCompile(`\{[^{}]*\}?|\}`)

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *LoginTemplate) UnmarshalText(text []byte) error {
	s := string(text)
	if len(s) > maxTemplate || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("a login template must be printable text of at most %d bytes, such as {local} or {user}", maxTemplate)
	}
	for _, found := range braces.FindAllString(s, -1) {
		if found != wholeLogin && found != localPart && found != loginDomain {
			return fmt.Errorf("%q is unknown in a login template; write {user} (the whole login), {local} or {domain}", found)
		}
	}
	if !strings.Contains(s, wholeLogin) && !strings.Contains(s, localPart) {
		return fmt.Errorf("the login template %q does not name the user, so that all users would share one account; add {user} or {local}", s)
	}
	*t = LoginTemplate(s)
	return nil
}

// expand returns the login for the store, or the reason why the store is not asked.
func (t LoginTemplate) expand(login, realm string) (expanded, why string) {
	local, domain, whole := login, realm, login
	if at := strings.LastIndexByte(login, '@'); at >= 0 {
		local, domain = login[:at], login[at+1:]
	} else if realm != "" {
		whole = login + "@" + realm
	}
	if t.isWhole() {
		return whole, ""
	}
	switch {
	case t.has(loginDomain) && domain == "":
		return "", "the login has no domain, and auth.realm is empty"
	case t.has(localPart) && local == "":
		return "", "the login is empty before its domain"
	case !t.has(wholeLogin) && !t.has(loginDomain) && realm != "" && !strings.EqualFold(domain, realm):
		return "", "the domain of the login is not auth.realm, and the template drops the domain"
	}
	// One pass: a client's text in braces is not expanded.
	return strings.NewReplacer(wholeLogin, whole, localPart, local, loginDomain, domain).Replace(string(t)), ""
}

// isWhole reports whether the template keeps the login as it is, with its domain.
func (t LoginTemplate) isWhole() bool { return t == "" || t == wholeLogin }

func (t LoginTemplate) has(part string) bool { return strings.Contains(string(t), part) }
