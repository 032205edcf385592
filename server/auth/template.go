package auth

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A LoginTemplate turns the login that a client gives into the one that a store
// is asked about. "{user}" is the whole login, "{local}" the part before its last "@",
// "{domain}" the part after it; everything else stays as it is. The empty template is
// "{user}".
//
// A login without a domain belongs to the default domain (Config.Realm), if there
// is one: then "{user}" and "{domain}" have it, too. For a login that lacks a part of
// the template, the store is not asked, and the user counts as unknown to it.
//
// A template without {user} and {domain} drops the domain. With a default domain
// its store is asked about the logins of that domain only: foo@example.net is another
// user than foo of example.org, whose store must get neither the password nor the
// failures of foo@example.net. Without a default domain it is asked about foo, whatever
// the domain.
//
// The template changes the question only. The canonical name is what the store
// returns, and neither the domain that the client has given nor the default one
// is added to it: otherwise the user foo of one store could choose to be
// foo@example.net of another one. Logins that become the same question are one
// user of that store, with one password and one name. Stores that know users
// without a domain share their names: foo of one is foo of the other.
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
		return fmt.Errorf("a login template has %d bytes of printable text at the most, such as {local} or {user}", maxTemplate)
	}
	for _, found := range braces.FindAllString(s, -1) {
		if found != wholeLogin && found != localPart && found != loginDomain {
			return fmt.Errorf("%q means nothing in a login template; write {user} (the whole login), {local} or {domain}", found)
		}
	}
	if !strings.Contains(s, wholeLogin) && !strings.Contains(s, localPart) {
		return fmt.Errorf("the login template %q does not name the user, so that all would share one account; write {user} or {local} in it", s)
	}
	*t = LoginTemplate(s)
	return nil
}

// expand returns the login for the store, or why the store is not to be asked.
func (t LoginTemplate) expand(login, realm string) (asked, why string) {
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
		return "", "the login has no domain, and auth.realm gives it none"
	case t.has(localPart) && local == "":
		return "", "the login has nothing before its domain"
	case !t.has(wholeLogin) && !t.has(loginDomain) && realm != "" && !strings.EqualFold(domain, realm):
		return "", "the login is not of auth.realm, and the template forgets the domain"
	}
	// One pass: what a client writes in braces is not expanded.
	return strings.NewReplacer(wholeLogin, whole, localPart, local, loginDomain, domain).Replace(string(t)), ""
}

func (t LoginTemplate) has(part string) bool { return strings.Contains(string(t), part) }
