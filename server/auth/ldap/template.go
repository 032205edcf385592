package ldap

// DNs, filters, and the templates that insert a login into them. What a client sends is
// escaped (RFC 4514, section 2.4; RFC 4515, section 3).

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

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
