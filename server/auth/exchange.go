package auth

import (
	"bytes"
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

// verify asks the store, and sets the identity if the store accepts the password. The
// error names the login.
func (x *passwordExchange) verify(ctx context.Context, c credentials) error {
	if f := precheck(c); f != nil {
		return withLogin(f, c.login)
	}
	id, err := x.store.VerifyPassword(ctx, x.peer, c.login, c.password)
	if err != nil {
		return withLogin(err, c.login)
	}
	if id.User == "" {
		return withLogin(&Unavailable{Store: id.Store, Err: errNoUser}, c.login)
	}
	if f := id.notAllowed(c); f != nil {
		return withLogin(f, c.login)
	}
	id.As, id.Mechanism = id.User, string(x.mech)
	x.id = id
	return nil
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

// plain is the mechanism PLAIN (RFC 4616).
type plain struct {
	passwordExchange
	asked, over bool
}

func startPlain(l Local, p *Peer) Exchange {
	return &plain{passwordExchange: passwordExchange{peer: p, store: l.Passwords, mech: mechPlain}}
}

// Next implements Exchange.
func (x *plain) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	// RFC 4954, section 4: a client that sent no initial response gets an empty
	// challenge and one chance.
	if response == nil && !x.asked && !x.over {
		x.asked = true
		return []byte{}, false, nil
	}
	if response == nil || x.over {
		return nil, false, ErrMalformed
	}
	x.over = true
	c, err := parsePlain(response)
	if err != nil {
		return nil, false, err
	}
	if err := x.verify(ctx, c); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// RFC 4616, section 2:
//
//	message = [authzid] UTF8NUL authcid UTF8NUL passwd
//
// where authcid and passwd are not empty. What has this form and cannot be right
// is a failed login (535) and no broken client (501): an empty password, which
// people do send, and names that precheck refuses. The password is any bytes, as
// in LOGIN.
func parsePlain(response []byte) (credentials, error) {
	fields := bytes.SplitN(response, []byte{0}, 4)
	if len(response) > maxResponse || len(fields) != 3 || len(fields[1]) == 0 {
		return credentials{}, ErrMalformed
	}
	return credentials{authzid: string(fields[0]), login: string(fields[1]), password: string(fields[2])}, nil
}

// The prompts of LOGIN. The expired draft (draft-murchison-sasl-login) has
// "User Name" and a NUL, but Outlook, scanners and printers were built against
// servers that send exactly this, and compare it.
const (
	promptUsername = "Username:"
	promptPassword = "Password:"
)

// login is the mechanism LOGIN, which no RFC describes: the server asks for the
// name, then for the password. An initial response is the name.
type login struct {
	passwordExchange
	step int
	name string
}

// The steps of login: what the next response will be.
const (
	loginInitial = iota
	loginName
	loginPassword
	loginOver
)

func startLogin(l Local, p *Peer) Exchange {
	return &login{passwordExchange: passwordExchange{peer: p, store: l.Passwords, mech: mechLogin}}
}

// Next implements Exchange.
func (x *login) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	switch x.step {
	case loginInitial:
		// Missing or empty: some clients send "=" and mean "you begin".
		if len(response) == 0 {
			x.step = loginName
			return []byte(promptUsername), false, nil
		}
		return x.takeName(response)
	case loginName:
		return x.takeName(response)
	case loginPassword:
		return x.takePassword(ctx, response)
	}
	return nil, false, ErrMalformed
}

// A name that is not text, or too long, is refused before the client has sent its
// password.
func (x *login) takeName(response []byte) ([]byte, bool, error) {
	x.step = loginOver
	if len(response) == 0 || len(response) > maxResponse || bytes.IndexByte(response, 0) >= 0 {
		return nil, false, ErrMalformed
	}
	name := string(response)
	if f := precheckName("name", name); f != nil {
		return nil, false, withLogin(f, name)
	}
	x.name, x.step = name, loginPassword
	return []byte(promptPassword), false, nil
}

// The password is any bytes but NUL: old clients send the character set of their
// desktop, and the hash may have been made of the same bytes.
func (x *login) takePassword(ctx context.Context, response []byte) ([]byte, bool, error) {
	x.step = loginOver
	if len(response) > maxResponse || bytes.IndexByte(response, 0) >= 0 {
		return nil, false, ErrMalformed
	}
	if err := x.verify(ctx, credentials{login: x.name, password: string(response)}); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}
