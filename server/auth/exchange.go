package auth

import (
	"context"
	"errors"
	"strings"
	"unicode"
)

// Longer names and passwords than these are refused before anything is
// computed from them. RFC 4616, section 2 asks for 255 octets at least.
const (
	maxName     = 512  // octets, of either identity
	maxPassword = 1024 // octets
)

// errNoUser is the cause when a store says yes without saying to whom.
var errNoUser = errors.New("the store named no user")

// credentials are what a client has to say to log in with a password.
type credentials struct {
	authzid  string // whom it wants to act as; empty: itself
	login    string
	password string
}

// A passwordExchange is what the password mechanisms have in common: they find
// the credentials each in its own way, and end in verify.
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

// verify asks the store, and sets the identity if the answer is yes.
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
	if f := hopeless(c); f != nil {
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
// authentication identity may act as the authorization identity. Nobody may act
// as another here.
func (id Identity) notAllowed(c credentials) *Failure {
	if c.authzid == "" || c.authzid == c.login || c.authzid == id.User {
		return nil
	}
	return &Failure{Kind: NotAllowed, Store: id.Store, Reason: "wanted to act as " + logName(c.authzid)}
}

// hopeless refuses what no store is to see: an empty password is "bind as
// nobody" to an LDAP server, and a control character ends a line or a field in
// more than one backend's protocol.
func hopeless(c credentials) *Failure {
	switch {
	case c.password == "":
		return &Failure{Kind: BadPassword, Reason: "empty password"}
	case strings.ContainsFunc(c.login, unicode.IsControl):
		return &Failure{Kind: NoSuchUser, Reason: "control character in the name"}
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
