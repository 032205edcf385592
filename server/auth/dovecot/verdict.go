package dovecot

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"postern/internal/text"
	"postern/server/auth"
)

// Bounds of what is taken over from an answer.
const (
	maxUser   = 512 // bytes
	maxReason = 200 // bytes
)

var (
	errNoUser = errors.New("dovecot said OK and named no user")
	errUser   = errors.New("dovecot said OK to a name that cannot be a user's")
	errProxy  = errors.New(`dovecot would pass this user on to another server ("proxy"), and may not have checked the password; ` +
		`let the passdb return no proxy for the service smtp`)
)

// verdict is what an OK or a FAIL means.
func (a answer) verdict() (auth.Identity, error) {
	if a.verb == verbOK {
		return a.accepted()
	}
	return auth.Identity{}, a.refused()
}

// accepted reads an OK.
func (a answer) accepted() (auth.Identity, error) {
	if a.params.has("nologin") {
		return auth.Identity{}, &auth.Failure{Kind: auth.Disabled, Store: Kind, Reason: a.reason("nologin")}
	}
	if a.params.has("proxy") {
		return auth.Identity{}, unavailable(errProxy)
	}
	user, _ := a.params.get("user")
	id := auth.Identity{User: user, As: user, Store: Kind}
	// A master user has given his own password, and is somebody else since.
	if master, ok := a.params.get("auth_user"); ok {
		id.User = master
	}
	if id.User == "" || id.As == "" {
		return auth.Identity{}, unavailable(errNoUser)
	}
	if !isName(id.User) || !isName(id.As) {
		return auth.Identity{}, unavailable(errUser)
	}
	return id, nil
}

// isName keeps out what would break lines further on.
func isName(s string) bool {
	return len(s) <= maxUser && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// refused reads a FAIL. Until 2.2 the reasons were parameters of their own, since
// 2.3 they are values of "code".
func (a answer) refused() error {
	code, _ := a.params.get("code")
	is := func(old, recent string) bool { return code == recent || a.params.has(old) }
	failure := &auth.Failure{Kind: auth.Unknowable, Store: Kind, Reason: a.reason(code)}
	switch {
	case is("temp", "temp_fail"):
		return unavailable(fmt.Errorf("dovecot reports a temporary failure; its log says more: %s", a.reason(code)))
	case is("user_disabled", "user_disabled"):
		failure.Kind = auth.Disabled
	case is("pass_expired", "pass_expired"):
		failure.Kind = auth.Expired
	case is("authz", "authz_fail"):
		failure.Kind = auth.NotAllowed
	}
	return failure
}

// reason is for the log: the word that Dovecot used, and its text.
func (a answer) reason(word string) string {
	reason, _ := a.params.get("reason")
	return text.Printable(text.Cut(strings.Trim(word+": "+reason, ": "), maxReason), '?')
}
