package auth

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A LoginTemplate makes the login for a store from the login of the client. "{user}" is the
// whole login, "{local}" the part before its last "@", "{domain}" the part after it; all
// other text is kept. The empty template is "{user}".
//
// A login without a domain gets the default domain (Config.Realm), if there is one, in
// "{user}" and "{domain}". If the login lacks a part that the template names, the store is
// not asked, and the user counts as unknown to it.
//
// A template without {user} and {domain} drops the domain. If there is a default domain,
// its store is asked for the logins of that domain only: foo@example.net is a different
// user than foo of example.org, whose store must get neither the password nor the failures
// of foo@example.net. Without a default domain the store is asked for foo, whatever the
// domain.
//
// The template changes only what the store is asked. The canonical name is the one that the
// store returns; neither the client's domain nor the default one is added, otherwise the
// user foo of one store could choose to be foo@example.net of another one. Logins from which
// the template makes the same text are one user of that store, with one password and one
// name. Stores that have users without a domain share their names: foo of one store is foo
// of the other.
type LoginTemplate string

const (
	wholeLogin  = "{user}"
	localPart   = "{local}"
	loginDomain = "{domain}"

	maxTemplate = 256 // bytes
)

var braces = regexp.MustCompile(`\{[^{}]*\}?|\}`)

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *LoginTemplate) UnmarshalText(text []byte) error {
	s := string(text)
	if len(s) > maxTemplate || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("a login template must be printable text of at most %d bytes, such as {local} or {user}", maxTemplate)
	}
	for _, found := range braces.FindAllString(s, -1) {
		if found != wholeLogin && found != localPart && found != loginDomain {
			return fmt.Errorf("%q is unknown in a login template; write {user} (the whole login), {local} or {domain}", found)
		}
	}
	if !strings.Contains(s, wholeLogin) && !strings.Contains(s, localPart) {
		return fmt.Errorf("the login template %q does not name the user, so that all users would share one account; add {user} or {local}", s)
	}
	*t = LoginTemplate(s)
	return nil
}

// expand returns the login for the store, or the reason why the store is not asked.
func (t LoginTemplate) expand(login, realm string) (expanded, why string) {
	local, domain, whole := login, realm, login
	if at := strings.LastIndexByte(login, '@'); at >= 0 {
		local, domain = login[:at], login[at+1:]
	} else if realm != "" {
		whole = login + "@" + realm
	}
	if t == "" || t == wholeLogin {
		return whole, ""
	}
	switch {
	case t.has(loginDomain) && domain == "":
		return "", "the login has no domain, and auth.realm is empty"
	case t.has(localPart) && local == "":
		return "", "the login is empty before its domain"
	case !t.has(wholeLogin) && !t.has(loginDomain) && realm != "" && !strings.EqualFold(domain, realm):
		return "", "the domain of the login is not auth.realm, and the template drops the domain"
	}
	// One pass: a client's text in braces is not expanded.
	return strings.NewReplacer(wholeLogin, whole, localPart, local, loginDomain, domain).Replace(string(t)), ""
}

func (t LoginTemplate) has(part string) bool { return strings.Contains(string(t), part) }
