package auth

import (
	"context"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"

	"postern/server/auth/hash"
)

// PreparePassword returns the form of a password in which it should be hashed
// and compared: the OpaqueString profile of RFC 8265, section 4.2, which
// replaced SASLprep. An ASCII password is its own prepared form; "é" is one
// character afterwards, however the keyboard composed it. What the profile
// forbids is returned unchanged, and so is a password of more than
// [hash.MaxPassword] octets, which no hash matches: the preparation costs at most
// about a millisecond.
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

// Prepared wraps a store: it verifies the prepared form of the password first
// and, if that is refused and the client sent other bytes, those. So hashes made by
// tools without such a preparation keep working. Whether there is a second
// verification depends on the password alone, not on whether the user exists.
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

// isGuess reports whether err means that login or password are wrong. The other
// kinds of failure are for clients that sent the right password.
func isGuess(err error) bool {
	f := asFailure(err)
	return f != nil && (f.Kind == NoSuchUser || f.Kind == Unknowable || f.Kind == BadPassword)
}
