package auth

import (
	"slices"
	"strings"
)

// account returns the same text for all logins that may be one account of the stores: the
// throttle counts guesses by it. A store whose template or query drops the domain has the same
// user at any domain; to all others, a login without a domain is one of the default domain.
func (c Chain) account(login string) string {
	if slices.ContainsFunc(c, (*Store).dropsDomain) {
		return LocalPart(login)
	}
	if len(c) > 0 && c[0].realm != "" && !strings.Contains(login, "@") {
		return login + "@" + c[0].realm
	}
	return login
}

// dropsDomain reports whether a user of the store may log in with any domain.
func (s *Store) dropsDomain() bool {
	t := s.config.Login
	return s.ignoresDomain || s.realm == "" && t.has(localPart) && !t.has(loginDomain) && !t.has(wholeLogin)
}

// LocalPart returns the login without its domain. Guesses are counted by it if it is not known
// whether the backend drops the domain: see [throttle.Throttle.Accounts].
func LocalPart(login string) string {
	if at := strings.LastIndexByte(login, '@'); at > 0 {
		return login[:at]
	}
	return login
}
