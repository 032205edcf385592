package pam

import (
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
)

// A question is what a child asks PAM.
type question struct {
	login, password, service string

	client netip.Addr // PAM_RHOST; the zero Addr if it is not known

	// atOnce says that the answer is not to be delayed: who asked makes those
	// wait who fail. Otherwise the modules' delay is all that slows down
	// somebody who guesses.
	atOnce bool
}

// maxLogin is the longest login that is shown to PAM.
const maxLogin = 512 // bytes

// emptyCredentials is the reason that [Store.Check] expects to hear.
const emptyCredentials = "empty login or password"

// hopeless refuses what no module is to see, whoever asks.
func hopeless(r saslauthd.Request) (saslauthd.Answer, bool) {
	switch {
	case r.Login == "" || r.Password == "":
		// pam_unix with "nullok" lets in who has no password.
		return no(auth.Unknowable, emptyCredentials), true
	case len(r.Login) > maxLogin:
		return no(auth.NoSuchUser, "the login is too long"), true
	case !utf8.ValidString(r.Login) || strings.ContainsFunc(r.Login, unicode.IsControl):
		return no(auth.NoSuchUser, "the login holds control characters, or is not UTF-8"), true
	case strings.Contains(r.Login, "/"):
		// Modules make names of files from it, below /run for example.
		return no(auth.NoSuchUser, "the login holds a slash"), true
	}
	return saslauthd.Answer{}, false
}
