package auth

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"

	"postern/server/auth/hash"
	"postern/server/auth/throttle"
)

// Throttled returns a verifier that passes each login to v after the delay that t
// gives it, with Peer.Known set. For a nil v it returns nil.
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
	attempt, err := v.throttle.Acquire(ctx, p.Remote.Addr(), login)
	if err != nil {
		return Identity{}, err
	}
	var outcome throttle.Outcome // undecided, if the verifier panics
	defer func() { attempt.Done(outcome) }()
	peer := *p // the session's own is not changed
	peer.Known = attempt.Known()
	id, err := v.verifier.VerifyPassword(ctx, &peer, login, password)
	outcome = OutcomeOf(err, id.User, password)
	return id, err
}

// OutcomeOf returns what the throttle counts of an attempt that ended with err. No error
// is a success. A *Failure of the kinds NoSuchUser, Unknowable and BadPassword is a wrong
// guess, and so is an *Unavailable with a Refused of the kind BadPassword. Every other
// error does not count against the client. secret may be empty; see [throttle.Outcome].
func OutcomeOf(err error, user, secret string) throttle.Outcome {
	switch {
	case err == nil:
		return throttle.Outcome{Result: throttle.Success, User: user}
	case isGuess(err):
		return throttle.Outcome{Result: throttle.WrongGuess, Secret: secret}
	}
	// One store has found the password wrong while another one did not answer.
	// NoSuchUser does not count: the user may be one of the other store.
	if u, ok := errors.AsType[*Unavailable](err); ok && u.Refused != nil && u.Refused.Kind == BadPassword {
		return throttle.Outcome{Result: throttle.WrongGuess, Secret: secret}
	}
	return throttle.Outcome{}
}

// isGuess reports whether err means that login or password are wrong. The other kinds
// of failure are for clients that sent the right password.
func isGuess(err error) bool {
	f := asFailure(err)
	return f != nil && (f.Kind == NoSuchUser || f.Kind == Unknowable || f.Kind == BadPassword)
}

// WithPRECIS returns a verifier that passes the prepared form of the password to v and,
// if that is refused and the client sent other bytes, those: hashes made by tools without
// such a preparation keep working. Whether there is a second verification depends on the
// password alone, not on whether the user exists. For a nil v it returns nil.
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
	if prepared == password || !isGuess(err) {
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
