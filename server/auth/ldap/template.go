package ldap

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// A DNTemplate makes the distinguished name of a user from the login:
//
//	uid={user},ou=people,dc=example,dc=org
//	uid={local},ou={domain},dc=example,dc=org
//
// {user} is the login, {local} what stands in front of its last "@" (all of it,
// if there is none), {domain} what stands behind. What is filled in is escaped:
// it stays one value, whatever is in it. The zero value is none.
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
		return fmt.Errorf("%q is not the name of an entry; write it as uid={user},ou=people,dc=example,dc=org", s)
	}
	*t = DNTemplate{s}
	return nil
}

func (t DNTemplate) String() string { return t.text }

// RFC 4514, section 2.4.
func (t DNTemplate) fill(login string) (string, error) { return fill(t.text, login, ldap.EscapeDN) }

// A FilterTemplate makes the filter that finds the entry of a user, with the
// variables of [DNTemplate]:
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

var errNoDomain = errors.New("the login has no domain, and the configuration asks for {domain}")

// fill puts the parts of the login into the template, in one pass: what was
// filled in is not looked at again.
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

// No escaping would make an attribute of what a client sends.
var variableAttribute = regexp.MustCompile(`\{(user|local|domain)\}[^(),+]*=`)

func checkVariables(template string) error {
	if !strings.Contains(template, "{user}") && !strings.Contains(template, "{local}") {
		return fmt.Errorf("%q is the same for every user; write {user} where the login belongs", template)
	}
	rest := strings.NewReplacer("{user}", "", "{local}", "", "{domain}", "").Replace(template)
	if strings.ContainsAny(rest, "{}") {
		return fmt.Errorf("%q has a variable that does not exist; the variables are {user}, {local} and {domain}", template)
	}
	if variableAttribute.MatchString(template) {
		return fmt.Errorf("%q lets the client choose the attribute; write the variable behind the equals sign", template)
	}
	return nil
}

// forgetsDomain says that alice@example.org and alice@example.net may lead to the
// same entry.
func forgetsDomain(template string) bool {
	return strings.Contains(template, "{local}") && !strings.Contains(template, "{domain}")
}

// A DN is the distinguished name of an entry. The zero value is none.
type DN struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *DN) UnmarshalText(text []byte) error {
	if _, err := ldap.ParseDN(string(text)); err != nil {
		return fmt.Errorf("%q is not the name of an entry; write it as ou=people,dc=example,dc=org", text)
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

// A Scope is how deep below search_base the entries of users may be.
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
