package auth

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"

	"postern/server/auth/hash"
	"postern/server/auth/throttle"
)

const (
	// maxName bounds either identity, in octets. RFC 4616, section 2 demands that
	// servers accept 255.
	maxName = 512

	// maxResponse bounds a response of PLAIN or LOGIN, in octets. RFC 4954, section 4
	// bounds the line, which is base64 and therefore longer, by the same number: every
	// password that a client can send reaches the stores. Each store and each hash
	// scheme has its own bound for passwords.
	maxResponse = 12288
)

// credentials are what a client sends to log in with a password.
type credentials struct {
	authzid  string // the identity to act as; empty: that of the login
	login    string
	password string
}

// A passwordExchange is the common part of the mechanisms that send the password. Each of
// them parses the credentials and calls verify.
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

// verify sets the identity if the store accepts the password. The error names the login.
func (x *passwordExchange) verify(ctx context.Context, c credentials) error {
	if f := precheck(c); f != nil {
		return WithLogin(f, c.login)
	}
	id, err := x.store.VerifyPassword(ctx, x.peer, c.login, c.password)
	if err == nil && id.User == "" {
		err = &Unavailable{Store: id.Store, Err: errNoUser}
	}
	if err != nil {
		return WithLogin(err, c.login)
	}
	if f := id.notAllowed(c); f != nil {
		return WithLogin(f, c.login)
	}
	id.As, id.Mechanism = id.User, string(x.mech)
	x.id = id
	return nil
}

// notAllowed refuses an authorization identity that the user may not act as (RFC 4616,
// section 2; RFC 5802, section 5.1). Users may act only as themselves.
func (id Identity) notAllowed(c credentials) *Failure {
	if c.authzid == "" || c.authzid == c.login || c.authzid == id.User {
		return nil
	}
	return &Failure{Kind: NotAllowed, Store: id.Store, Reason: "wanted to act as " + logName(c.authzid)}
}

// precheck refuses credentials that no store may get: an empty password makes an LDAP
// bind anonymous, and a control character ends a line or a field in the protocol of more
// than one backend. The answer depends on the credentials alone and not on which users
// exist, so it may come at once.
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
	// This one may have control characters, since no store gets it.
	return precheckName("authorization identity", c.authzid)
}

// precheckName refuses a name that is not UTF-8, or longer than maxName.
func precheckName(what, name string) *Failure {
	switch {
	case len(name) > maxName:
		return &Failure{Kind: NoSuchUser, Reason: fmt.Sprintf("the %s is longer than %d octets", what, maxName)}
	case !utf8.ValidString(name):
		return &Failure{Kind: NoSuchUser, Reason: "the " + what + " is not UTF-8"}
	}
	return nil
}

// plain is the mechanism PLAIN (RFC 4616).
type plain struct {
	passwordExchange
	prompted, over bool
}

func startPlain(l Local, p *Peer, name MechanismName) Exchange {
	return &plain{passwordExchange: passwordExchange{peer: p, store: l.Passwords, mech: name}}
}

// Next implements Exchange.
func (x *plain) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	// RFC 4954, section 4: a client that sent no initial response gets an empty
	// challenge, once.
	if response == nil && !x.prompted && !x.over {
		x.prompted = true
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
	err = x.verify(ctx, c)
	return nil, err == nil, err
}

// parsePlain parses the message of RFC 4616, section 2:
//
//	message = [authzid] UTF8NUL authcid UTF8NUL passwd
//
// where authcid and passwd are not empty. A message of this form that cannot be right is
// a failed login (535) and no protocol error (501): one with an empty password, which
// people do send, or with a name that precheck refuses. The password may be any bytes, as
// in LOGIN.
func parsePlain(response []byte) (credentials, error) {
	fields := bytes.SplitN(response, []byte{0}, 4)
	if len(response) > maxResponse || len(fields) != 3 || len(fields[1]) == 0 {
		return credentials{}, ErrMalformed
	}
	return credentials{authzid: string(fields[0]), login: string(fields[1]), password: string(fields[2])}, nil
}

// The prompts of LOGIN. The expired draft (draft-murchison-sasl-login) has "User Name"
// and a NUL, but Outlook, scanners and printers were built against servers that send
// exactly this, and compare it.
const (
	promptUsername = "Username:"
	promptPassword = "Password:"
)

// login is the mechanism LOGIN, which no RFC describes: the server asks for the name,
// then for the password. An initial response is the name.
type login struct {
	passwordExchange
	step int // what the next response is
	name string
}

// The steps of login.
const (
	loginInitial = iota
	loginName
	loginPassword
	loginOver
)

func startLogin(l Local, p *Peer, name MechanismName) Exchange {
	return &login{passwordExchange: passwordExchange{peer: p, store: l.Passwords, mech: name}}
}

// Next implements Exchange.
func (x *login) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	step := x.step
	x.step = loginOver
	// Missing or empty: some clients send "=" and expect the prompt.
	if step == loginInitial && len(response) == 0 {
		x.step = loginName
		return []byte(promptUsername), false, nil
	}
	if step == loginOver || len(response) > maxResponse || bytes.IndexByte(response, 0) >= 0 {
		return nil, false, ErrMalformed
	}
	// The password may be any bytes but NUL: old clients send the character set of
	// their desktop, and the hash may have been made of the same bytes.
	if step == loginPassword {
		err := x.verify(ctx, credentials{login: x.name, password: string(response)})
		return nil, err == nil, err
	}
	if len(response) == 0 {
		return nil, false, ErrMalformed
	}
	// A bad name is refused before the client has sent its password.
	name := string(response)
	if f := precheckName("name", name); f != nil {
		return nil, false, WithLogin(f, name)
	}
	x.name, x.step = name, loginPassword
	return []byte(promptPassword), false, nil
}

// Throttled returns a verifier that passes each login to v after the delay that t
// gives it, with Peer.Known set, as a [Question]. For a nil v it returns nil.
func Throttled(t *throttle.Throttle, v PasswordVerifier) PasswordVerifier {
	if v == nil {
		return nil
	}
	return throttled{t, v}
}

type throttled struct {
	throttle *throttle.Throttle
	verifier PasswordVerifier
}

// VerifyPassword implements PasswordVerifier.
func (v throttled) VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error) {
	q := Question{Throttle: v.throttle, Peer: p, Login: login, Secret: password}
	q.Ask = func(ctx context.Context, p *Peer) (Identity, error) {
		return v.verifier.VerifyPassword(ctx, p, login, password)
	}
	return q.Verify(ctx)
}

// WithPRECIS returns a verifier that passes the prepared form of the password to v and,
// if that is refused and the client sent other bytes, those: hashes made by tools without
// such a preparation keep working. Whether there is a second verification depends on the
// password alone, not on whether the user exists, unless the backend counts wrong passwords:
// see [Failure]. Then only the prepared form is tried, as RFC 4513, section 5.1.3 demands of
// clients of a directory. For a nil v it returns nil.
func WithPRECIS(v PasswordVerifier) PasswordVerifier {
	if v == nil {
		return nil
	}
	return withPRECIS{v}
}

type withPRECIS struct{ PasswordVerifier }

// VerifyPassword implements PasswordVerifier.
func (v withPRECIS) VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error) {
	prepared := PreparePassword(password)
	id, err := v.PasswordVerifier.VerifyPassword(ctx, p, login, prepared)
	if f := asFailure(err); prepared == password || !isGuess(err) || f != nil && f.Counted {
		return id, err
	}
	return v.PasswordVerifier.VerifyPassword(ctx, p, login, password)
}

// PreparePassword returns the form of a password in which it should be hashed and
// compared: the OpaqueString profile of PRECIS (RFC 8265, section 4.2), which replaced
// SASLprep. An ASCII password is its own prepared form; "é" is one character afterwards,
// however the keyboard composed it. A password that the profile forbids is returned
// unchanged, and so is one of more than [hash.MaxPassword] octets, which no hash matches:
// the preparation costs at most about a millisecond.
func PreparePassword(password string) string {
	// The profile would replace every byte that is not UTF-8 by the same U+FFFD.
	beyondASCII := func(r rune) bool { return r >= utf8.RuneSelf }
	if len(password) > hash.MaxPassword || !utf8.ValidString(password) || !strings.ContainsFunc(password, beyondASCII) {
		return password
	}
	prepared, err := precis.OpaqueString.String(password)
	if err != nil {
		return password
	}
	return prepared
}
