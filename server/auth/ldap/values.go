package ldap

// The types of the values of a table: URLs, DNs, filters and their templates.

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/hosturl"
)

// A URL is the address of a server and how to connect to it:
//
//	ldap://HOST[:PORT]   StartTLS, or clear text on loopback; port 389
//	ldaps://HOST[:PORT]  TLS from the first byte; port 636
//	ldapi:///PATH        a Unix socket; ldapi:/// alone is /run/slapd/ldapi
//
// The path of a socket may be written with %2F, as OpenLDAP does. A URL is
// a comparable value; the zero value is no server.
type URL struct{ hosturl.URL }

const (
	schemePlain = "ldap"
	schemeTLS   = "ldaps"
	schemeUnix  = "ldapi"

	defaultSocket = "/run/slapd/ldapi"
)

// UnmarshalText implements encoding.TextUnmarshaler. No error repeats the text,
// which may contain a password.
func (u *URL) UnmarshalText(text []byte) error {
	parsed, err := parseURL(string(text))
	if err != nil {
		return err
	}
	u.URL = parsed
	return nil
}

func parseURL(text string) (u hosturl.URL, err error) {
	errForm := errors.New("write ldap://HOST:PORT, ldaps://HOST:PORT or ldapi:///PATH")
	scheme, rest, ok := hosturl.SplitScheme(text)
	switch {
	case ok && scheme == schemeUnix:
		return parseSocket(rest)
	case ok && scheme == schemePlain:
		u, err = hosturl.Parse(scheme, rest, "389")
	case ok && scheme == schemeTLS:
		u, err = hosturl.Parse(scheme, rest, "636")
	default:
		return u, fmt.Errorf("not the URL of a server: %w", errForm)
	}
	switch {
	case errors.Is(err, hosturl.ErrUser):
		err = fmt.Errorf("%w: set bind_dn and bind_password_file", err)
	case errors.Is(err, hosturl.ErrRest):
		err = fmt.Errorf("%w: set search_base to the base of the search", err)
	case errors.Is(err, hosturl.ErrSyntax):
		err = fmt.Errorf("%w: %w", err, errForm)
	}
	return u, err
}

func parseSocket(rest string) (hosturl.URL, error) {
	path, err := url.PathUnescape(rest)
	if err != nil {
		return hosturl.URL{}, errors.New("the path of the socket has a % without two hexadecimal digits")
	}
	if path == "/" || path == "" {
		path = defaultSocket
	}
	return hosturl.Socket(schemeUnix, path)
}

// A DNTemplate builds the distinguished name of a user's entry from the login:
//
//	uid={user},ou=people,dc=example,dc=org
//	uid={local},ou={domain},dc=example,dc=org
//
// {user} is the login, {local} the part before its last "@" (all of it, if there is
// none), and {domain} the part after it. They are escaped, so each stays one value. The
// zero value is none.
type DNTemplate struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *DNTemplate) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "" {
		*t = DNTemplate{}
		return nil
	}
	if err := checkVariables(s); err != nil {
		return err
	}
	dn, _ := fill(s, "a,b@example.org", ldap.EscapeDN)
	if _, err := ldap.ParseDN(dn); err != nil {
		return fmt.Errorf("%q is not a distinguished name; write it as uid={user},ou=people,dc=example,dc=org", s)
	}
	*t = DNTemplate{s}
	return nil
}

func (t DNTemplate) String() string { return t.text }

// RFC 4514, section 2.4.
func (t DNTemplate) fill(login string) (string, error) { return fill(t.text, login, ldap.EscapeDN) }

// A FilterTemplate builds the filter that finds the entry of a user, with the variables of
// [DNTemplate]:
//
//	(&(objectClass=person)(uid={user}))
type FilterTemplate struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *FilterTemplate) UnmarshalText(text []byte) error {
	s := string(text)
	if err := checkVariables(s); err != nil {
		return err
	}
	filter, _ := fill(s, "(*)@example.org", ldap.EscapeFilter)
	if _, err := ldap.CompileFilter(filter); err != nil {
		return fmt.Errorf("%q is not a filter; write it as (&(objectClass=person)(uid={user}))", s)
	}
	*t = FilterTemplate{s}
	return nil
}

func (t FilterTemplate) String() string { return t.text }

// RFC 4515, section 3.
func (t FilterTemplate) fill(login string) (string, error) {
	return fill(t.text, login, ldap.EscapeFilter)
}

var errNoDomain = errors.New("the login has no domain, which the template needs for {domain}")

// fill replaces the variables of the template in one pass, so that a variable in the login
// is not replaced.
func fill(template, login string, escape func(string) string) (string, error) {
	local, domain := login, ""
	if at := strings.LastIndexByte(login, '@'); at >= 0 {
		local, domain = login[:at], login[at+1:]
	}
	if domain == "" && strings.Contains(template, "{domain}") {
		return "", errNoDomain
	}
	return strings.NewReplacer("{user}", escape(login), "{local}", escape(local), "{domain}", escape(domain)).Replace(template), nil
}

// variableAttribute matches a variable in the name of an attribute, where escaping is not
// possible.
var variableAttribute = regexp.MustCompile(`\{(user|local|domain)\}[^(),+]*=`)

func checkVariables(template string) error {
	if !strings.Contains(template, "{user}") && !strings.Contains(template, "{local}") {
		return fmt.Errorf("%q is the same for every user; write {user} in place of the login", template)
	}
	rest := strings.NewReplacer("{user}", "", "{local}", "", "{domain}", "").Replace(template)
	if strings.ContainsAny(rest, "{}") {
		return fmt.Errorf("%q has an unknown variable; the variables are {user}, {local} and {domain}", template)
	}
	if variableAttribute.MatchString(template) {
		return fmt.Errorf("%q lets the client choose the attribute; write the variable after the equals sign", template)
	}
	return nil
}

// ignoresDomain reports whether alice@example.org and alice@example.net may find the same
// entry.
func ignoresDomain(template string) bool {
	return strings.Contains(template, "{local}") && !strings.Contains(template, "{domain}")
}

// A DN is the distinguished name of an entry. The zero value is none.
type DN struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *DN) UnmarshalText(text []byte) error {
	if _, err := ldap.ParseDN(string(text)); err != nil {
		return fmt.Errorf("%q is not a distinguished name; write it as ou=people,dc=example,dc=org", text)
	}
	*d = DN{string(text)}
	return nil
}

func (d DN) String() string { return d.text }

// A Filter is a filter as in RFC 4515. The zero value is none.
type Filter struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Filter) UnmarshalText(text []byte) error {
	if _, err := ldap.CompileFilter(string(text)); err != nil && len(text) > 0 {
		return fmt.Errorf("%q is not a filter; write it as (employeeType=left)", text)
	}
	*f = Filter{string(text)}
	return nil
}

func (f Filter) String() string { return f.text }

// A Scope is the scope of a search below search_base.
type Scope struct{ level int }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Scope) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "sub":
		s.level = ldap.ScopeWholeSubtree
	case "one":
		s.level = ldap.ScopeSingleLevel
	case "base":
		s.level = ldap.ScopeBaseObject
	default:
		return fmt.Errorf(`%q is not a scope; write "sub" (all below search_base), "one" (right below it) or "base" (itself)`, text)
	}
	return nil
}
