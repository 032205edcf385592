package auth

import "strings"

// account returns the same text for all logins that may be one account of the stores: the
// throttle counts guesses by it. A store whose template drops the domain has the same user at
// any domain; to all others, a login without a domain is one of the default domain.
func (c Chain) account(login string) string {
	for _, s := range c {
		t := s.config.Login
		if s.realm == "" && t.has(localPart) && !t.has(loginDomain) && !t.has(wholeLogin) {
			return LocalPart(login)
		}
	}
	if len(c) > 0 && c[0].realm != "" && !strings.Contains(login, "@") {
		return login + "@" + c[0].realm
	}
	return login
}

// LocalPart returns the login without its domain. Guesses are counted by it if it is not known
// whether the backend drops the domain: see [throttle.Throttle.Accounts].
func LocalPart(login string) string {
	if at := strings.LastIndexByte(login, '@'); at > 0 {
		return login[:at]
	}
	return login
}
