package auth

import (
	"context"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"
)

// PreparePassword returns the form of a password in which it should be hashed
// and compared: the OpaqueString profile of RFC 8265, section 4.2, which
// replaced SASLprep. An ASCII password is its own prepared form; "é" is one
// character afterwards, however the keyboard composed it. What the profile
// forbids comes back as it is.
func PreparePassword(password string) string {
	// Of bytes that are no UTF-8 the profile would make U+FFFD, all the same.
	if isASCII(password) || !utf8.ValidString(password) {
		return password
	}
	prepared, err := precis.OpaqueString.String(password)
	if err != nil {
		return password
	}
	return prepared
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// Prepared wraps a store: it is asked for the prepared form of the password
// first and, if that is refused and the client had sent other bytes, for those.
// So hashes made by tools that know nothing of preparation go on working.
// Whether there is a second question depends on the password alone, not on
// whether the user exists.
func Prepared(v PasswordVerifier) PasswordVerifier { return prepared{v} }

type prepared struct{ PasswordVerifier }

// VerifyPassword implements PasswordVerifier.
func (v prepared) VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error) {
	form := PreparePassword(password)
	id, err := v.PasswordVerifier.VerifyPassword(ctx, p, login, form)
	if form == password || !isGuess(err) {
		return id, err
	}
	return v.PasswordVerifier.VerifyPassword(ctx, p, login, password)
}

// isGuess reports whether err says that login or password are wrong. The other
// kinds of failure are told to somebody who knew them.
func isGuess(err error) bool {
	f := asFailure(err)
	return f != nil && (f.Kind == NoSuchUser || f.Kind == Unknowable || f.Kind == BadPassword)
}
