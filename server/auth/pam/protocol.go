package pam

import (
	"errors"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
)

// The answers to an extended request, from the child through the helper to the store:
//
//	OK user            the canonical user
//	NO word reason     a refusal; word is one of words
//	TRYAGAIN reason    PAM could not decide
//
// Other clients of saslauthd get OK and NO without a text. Instead of TRYAGAIN the
// connection is closed without an answer: their library then reports "generic failure",
// while it reports any other answer as a wrong password.

// words are the kinds of failure that PAM distinguishes.
var words = [...]struct {
	kind auth.FailureKind
	word string
}{
	{auth.NoSuchUser, "unknown-user"},
	{auth.Unknowable, "refused"},
	{auth.Disabled, "disabled"},
	{auth.Expired, "expired"},
}

// accept returns the answer that accepts the login of user.
func accept(user string) saslauthd.Answer { return saslauthd.Answer{Verdict: saslauthd.OK, Text: user} }

// reject returns the answer that refuses a login.
func reject(kind auth.FailureKind, reason string) saslauthd.Answer {
	for _, w := range words {
		if w.kind == kind {
			return saslauthd.Answer{Verdict: saslauthd.NO, Text: strings.TrimSpace(w.word + " " + reason)}
		}
	}
	return tryAgain("a failure without a word: " + kind.String())
}

// tryAgain returns the answer of a temporary error.
func tryAgain(reason string) saslauthd.Answer { return saslauthd.Answer{Text: reason} }

// identity returns the identity or the error that an answer means.
func identity(a saslauthd.Answer) (auth.Identity, error) {
	switch a.Verdict {
	case saslauthd.OK:
		if a.Text == "" {
			return auth.Identity{}, unavailable("the answer has no user; if the socket is saslauthd's, set kind = \"saslauthd\"")
		}
		return auth.Identity{User: a.Text, Store: Kind}, nil
	case saslauthd.NO:
		kind, reason := parseNo(a.Text)
		if reason != "" {
			reason = saslauthd.Clip(reason)
		}
		return auth.Identity{}, &auth.Failure{Kind: kind, Store: Kind, Reason: reason}
	}
	return auth.Identity{}, unavailable(a.Text)
}

// parseNo is the reverse of reject. A text that begins with none of words is a reason.
func parseNo(text string) (kind auth.FailureKind, reason string) {
	word, rest, _ := strings.Cut(text, " ")
	for _, w := range words {
		if w.word == word {
			return w.kind, rest
		}
	}
	return auth.Unknowable, text
}

func unavailable(reason string) error {
	return &auth.Unavailable{Store: Kind, Err: errors.New(saslauthd.Clip(reason))}
}

// A login is a request to PAM.
type login struct {
	name, password, service string

	client netip.Addr // PAM_RHOST; the zero Addr if it is not known

	// noDelay switches off the delay of failures by modules, since postern delays
	// clients that guess. Other clients of the helper rely on the modules' delay.
	noDelay bool
}

// maxLogin is the longest login that is passed to PAM.
const maxLogin = 512 // bytes

// emptyCredentials is the reason that [Store.Check] expects.
const emptyCredentials = "empty login or password"

// precheck refuses logins and passwords that no module may get.
func precheck(r saslauthd.Request) (a saslauthd.Answer, refused bool) {
	switch {
	case r.Login == "" || r.Password == "":
		// pam_unix with "nullok" accepts users without a password.
		return reject(auth.Unknowable, emptyCredentials), true
	case len(r.Login) > maxLogin:
		return reject(auth.NoSuchUser, "the login is too long"), true
	case !utf8.ValidString(r.Login) || strings.ContainsFunc(r.Login, unicode.IsControl):
		return reject(auth.NoSuchUser, "the login contains control characters, or is not UTF-8"), true
	case strings.Contains(r.Login, "/"):
		// Modules use it in names of files, below /run for example.
		return reject(auth.NoSuchUser, "the login contains a slash"), true
	}
	return saslauthd.Answer{}, false
}
