package ldapclient

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// Variables are the variables of templates for DNs and filters, into which the input of a
// client is inserted:
//
//	uid={user},ou=people,dc=example,dc=org
//	(&(objectClass=person)(uid={user}))
//
// The input is escaped, so it stays one value. All fields must be set.
type Variables struct {
	Whole  string // variable for the whole input, such as "{user}"
	Local  string // for the part before the last "@", or all of it if there is none
	Domain string // for the part after it

	Constant      string // error for a template without Whole and Local
	ExampleDN     string // for errors
	ExampleFilter string
}

// CheckDN returns an error if template cannot be the template of a distinguished name.
func (v Variables) CheckDN(template string) error {
	if err := v.check(template); err != nil {
		return err
	}
	dn, _ := v.FillDN(template, "a,b@example.org")
	if _, err := ldap.ParseDN(dn); err != nil {
		return fmt.Errorf("%q is not a distinguished name; write it as %s", template, v.ExampleDN)
	}
	return nil
}

// CheckFilter returns an error if template cannot be the template of a filter.
func (v Variables) CheckFilter(template string) error {
	if err := v.check(template); err != nil {
		return err
	}
	filter, _ := v.FillFilter(template, "(*)@example.org")
	if _, err := ldap.CompileFilter(filter); err != nil {
		return fmt.Errorf("%q is not a filter; write it as %s", template, v.ExampleFilter)
	}
	return nil
}

func (v Variables) check(template string) error {
	if !strings.Contains(template, v.Whole) && !strings.Contains(template, v.Local) {
		return fmt.Errorf("%q %s", template, v.Constant)
	}
	rest := strings.NewReplacer(v.Whole, "", v.Local, "", v.Domain, "").Replace(template)
	if strings.ContainsAny(rest, v.marks()) {
		return fmt.Errorf("%q has an unknown variable; the variables are %s, %s and %s", template, v.Whole, v.Local, v.Domain)
	}
	if v.inAttribute(template) {
		return fmt.Errorf("%q lets the client choose the attribute; write the variable after the equals sign", template)
	}
	return nil
}

// marks returns the characters that only variables may have, such as the braces of "{user}".
func (v Variables) marks() string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return -1
		}
		return r
	}, v.Whole)
}

// inAttribute reports whether a variable is in the name of an attribute, where escaping is not
// possible.
func (v Variables) inAttribute(template string) bool {
	names := []string{regexp.QuoteMeta(v.Whole), regexp.QuoteMeta(v.Local), regexp.QuoteMeta(v.Domain)}
	return regexp.MustCompile(`(` + strings.Join(names, "|") + `)[^(),+]*=`).MatchString(template)
}

// FillDN returns the DN for an input, or false if the template needs a domain and the input has
// none. It escapes as in RFC 4514, section 2.4.
func (v Variables) FillDN(template, input string) (dn string, ok bool) {
	return v.fill(template, input, ldap.EscapeDN)
}

// FillFilter returns the filter for an input, or false if the template needs a domain and the
// input has none. It escapes as in RFC 4515, section 3.
func (v Variables) FillFilter(template, input string) (filter string, ok bool) {
	return v.fill(template, input, ldap.EscapeFilter)
}

// CheckAccount returns an error if template cannot be the template of an account's name in
// Active Directory: {local}@corp.example.com, {local}@{domain} or CORP\{user}.
func (v Variables) CheckAccount(template string) error {
	if err := v.check(template); err != nil {
		return err
	}
	for _, input := range []string{"a", "a@example.org"} {
		// A template without a separator would leave the form of the name to the client.
		if _, ok := v.FillAccount(template, input); ok && strings.ContainsAny(template, `@\`) {
			return nil
		}
	}
	return fmt.Errorf("%q is not the name of an account", template)
}

// FillAccount returns the name of an account for an input. It returns false if the input has
// characters that would change the form of the name, as there are no escapes.
func (v Variables) FillAccount(template, input string) (name string, ok bool) {
	name, ok = v.fill(template, input, func(s string) string { return s })
	return name, ok && isAccount(name)
}

// fill replaces the variables in one pass, so that a variable in the input is not replaced.
func (v Variables) fill(template, input string, escape func(string) string) (string, bool) {
	local, domain := input, ""
	if at := strings.LastIndexByte(input, '@'); at >= 0 {
		local, domain = input[:at], input[at+1:]
	}
	if domain == "" && strings.Contains(template, v.Domain) {
		return "", false
	}
	return strings.NewReplacer(v.Whole, escape(input), v.Local, escape(local), v.Domain, escape(domain)).Replace(template), true
}

// IgnoresDomain reports whether alice@example.org and alice@example.net may give the same
// result.
func (v Variables) IgnoresDomain(template string) bool {
	return strings.Contains(template, v.Local) && !strings.Contains(template, v.Domain)
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

// A Scope is the scope of a search below its base, with the numbers of RFC 4511, section
// 4.5.1.2.
type Scope int

// The scopes.
const (
	ScopeBase Scope = iota // the base itself
	ScopeOne               // the entries right below it
	ScopeSub               // itself and all entries below it
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Scope) UnmarshalText(text []byte) error {
	i := slices.Index([]string{"base", "one", "sub"}, strings.ToLower(string(text)))
	if i < 0 {
		return fmt.Errorf(`%q is not a scope; write "sub" (all below search_base), "one" (right below it) or "base" (itself)`, text)
	}
	*s = Scope(i)
	return nil
}
