package auth

import (
	"fmt"
	"strings"

	"golang.org/x/text/secure/precis"
)

// Fold is the key fold of a store: whether spellings of a login that differ in case are one
// login. The zero value asks the store with the login as it was sent.
//
// The login is folded after the template has made it, before anything else uses it: the answer
// cache, the queues, the decoys and the backend see one login for all spellings, and so does
// the throttle, whose own folding is wider. The canonical user remains the one that the
// backend returns, as it is spelled there.
type Fold string

// The values of fold.
const (
	FoldNone  Fold = "none"
	FoldLower Fold = "lower"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Fold) UnmarshalText(text []byte) error {
	switch v := Fold(text); v {
	case FoldNone, FoldLower:
		*f = v
		return nil
	}
	return fmt.Errorf(`unknown value %q; write "lower" (Alice@EXAMPLE.ORG and alice@example.org are one login) or "none" (they are two)`, text)
}

// Login returns the form in which logins are compared: with FoldLower that of the profile
// UsernameCaseMapped of PRECIS (RFC 8265, section 3.3), which maps fullwidth characters to
// their usual forms and all letters to lower case, and then normalizes to NFC. A login that the
// profile refuses, such as one with a blank, is returned unchanged: it equals only itself.
//
// The result of Login is its own result: folding it again changes nothing.
func (f Fold) Login(login string) string {
	if f != FoldLower {
		return login
	}
	if !strings.ContainsFunc(login, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return strings.ToLower(login) // the same result for ASCII, and each login needs it
	}
	folded, err := precis.UsernameCaseMapped.String(login)
	if err != nil {
		return login
	}
	if again, err := precis.UsernameCaseMapped.String(folded); err != nil || again != folded {
		return login
	}
	return folded
}
