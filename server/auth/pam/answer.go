package pam

import (
	"errors"
	"strings"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
)

// What the answers to an extended request say, from the child through the
// helper to the store:
//
//	OK user            the canonical user
//	NO word reason     one of words
//	TRYAGAIN reason    nobody could tell
//
// A client of saslauthd's own kind gets the bare OK and NO, and for the last one
// a connection that ends without an answer: its library makes "generic
// failure" of that, and of anything else "wrong password".

// words are the kinds of failure that PAM can tell apart.
var words = [...]struct {
	kind auth.FailureKind
	word string
}{
	{auth.NoSuchUser, "unknown-user"},
	{auth.Unknowable, "refused"},
	{auth.Disabled, "disabled"},
	{auth.Expired, "expired"},
}

// yes is the answer that lets user in.
func yes(user string) saslauthd.Answer { return saslauthd.Answer{Verdict: saslauthd.OK, Text: user} }

// no is the answer that does not.
func no(kind auth.FailureKind, reason string) saslauthd.Answer {
	for _, w := range words {
		if w.kind == kind {
			return saslauthd.Answer{Verdict: saslauthd.NO, Text: strings.TrimSpace(w.word + " " + reason)}
		}
	}
	return unsure("a failure without a word: " + kind.String())
}

// unsure is the answer of one who could not find out.
func unsure(reason string) saslauthd.Answer { return saslauthd.Answer{Text: reason} }

// identity is an answer as the store returns it.
func identity(a saslauthd.Answer) (auth.Identity, error) {
	switch a.Verdict {
	case saslauthd.OK:
		if a.Text == "" {
			return auth.Identity{}, unavailable("the answer names no user; is this a plain saslauthd? Then write kind = \"saslauthd\"")
		}
		return auth.Identity{User: a.Text, Store: Kind}, nil
	case saslauthd.NO:
		return auth.Identity{}, failure(a.Text)
	}
	return auth.Identity{}, unavailable(a.Text)
}

func failure(text string) *auth.Failure {
	kind, reason := parseNo(text)
	if reason != "" {
		reason = saslauthd.Clip(reason)
	}
	return &auth.Failure{Kind: kind, Store: Kind, Reason: reason}
}

// parseNo is the reverse of no. A text that begins with none of words is a
// reason.
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
