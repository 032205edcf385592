package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxName bounds either identity, in octets. RFC 4616, section 2 asks for 255
	// at least.
	maxName = 512

	// maxResponse bounds a response of PLAIN or LOGIN, in octets. RFC 4954,
	// section 4 bounds the line, which is in base64 and so longer, by the same
	// number: every password that a client can send reaches the stores. How long
	// a password may be is for each store and each hash scheme to define.
	maxResponse = 12288
)

// errNoUser is the cause when a store accepts a login without naming the user.
var errNoUser = errors.New("the store named no user")

// credentials are what a client sends to log in with a password.
type credentials struct {
	authzid  string // the identity to act as; empty: that of the login
	login    string
	password string
}

// A passwordExchange is what the password mechanisms have in common. Each parses
// the credentials in its own way, and calls verify.
type passwordExchange struct {
	peer  *Peer
	store PasswordVerifier
	mech  MechanismName
	id    Identity
}

// Identity implements Exchange.
func (x *passwordExchange) Identity() Identity { return x.id }

// Close implements Exchange. There is nothing to release.
func (x *passwordExchange) Close() error { return nil }

// verify asks the store, and sets the identity if the store accepts the password.
func (x *passwordExchange) verify(ctx context.Context, c credentials) error {
	id, err := x.ask(ctx, c)
	if err != nil {
		return withLogin(err, c.login)
	}
	id.As, id.Mechanism = id.User, string(x.mech)
	x.id = id
	return nil
}

func (x *passwordExchange) ask(ctx context.Context, c credentials) (Identity, error) {
	if f := precheck(c); f != nil {
		return Identity{}, f
	}
	id, err := x.store.VerifyPassword(ctx, x.peer, c.login, c.password)
	if err != nil {
		return Identity{}, err
	}
	if id.User == "" {
		return Identity{}, &Unavailable{Store: id.Store, Err: errNoUser}
	}
	if f := id.notAllowed(c); f != nil {
		return Identity{}, f
	}
	return id, nil
}

// RFC 4616, section 2, and RFC 5802, section 5.1: the server checks that the
// authentication identity may act as the authorization identity. Here every user
// may act as that user alone.
func (id Identity) notAllowed(c credentials) *Failure {
	if c.authzid == "" || c.authzid == c.login || c.authzid == id.User {
		return nil
	}
	return &Failure{Kind: NotAllowed, Store: id.Store, Reason: "wanted to act as " + logName(c.authzid)}
}

// precheck refuses what no store may get: an empty password makes an LDAP bind
// anonymous, and a control character ends a line or a field in more than one
// backend's protocol. The answer depends on the credentials alone and not on
// which users there are, so it may come at once.
func precheck(c credentials) *Failure {
	if c.password == "" {
		return &Failure{Kind: BadPassword, Reason: "empty password"}
	}
	if f := precheckName("name", c.login); f != nil {
		return f
	}
	if strings.ContainsFunc(c.login, unicode.IsControl) {
		return &Failure{Kind: NoSuchUser, Reason: "control character in the name"}
	}
	// Control characters in this one reach no store: it is only compared.
	return precheckName("authorization identity", c.authzid)
}

// precheckName refuses a name that is not text, or longer than maxName.
func precheckName(what, name string) *Failure {
	switch {
	case len(name) > maxName:
		return &Failure{Kind: NoSuchUser, Reason: fmt.Sprintf("the %s is longer than %d octets", what, maxName)}
	case !utf8.ValidString(name):
		return &Failure{Kind: NoSuchUser, Reason: "the " + what + " is not UTF-8"}
	}
	return nil
}

// withLogin returns err as a *Failure or an *Unavailable that names the login.
// The store's own value is left as it is; it may be shared.
func withLogin(err error, login string) error {
	if f := asFailure(err); f != nil {
		named := *f
		named.Login = logName(login)
		return &named
	}
	named := Unavailable{Err: err}
	if u, ok := errors.AsType[*Unavailable](err); ok {
		named = *u
	}
	named.Login = logName(login)
	return &named
}
