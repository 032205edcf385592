package ldap

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/ldapclient"
	"postern/server/auth"
)

// Config is a table [[auth.stores]] of kind "ldap". The names in parentheses
// are those of Postfix's ldap_table(5).
type Config struct {
	// The servers and the account that searches; also Location and Access of
	// auth.BackendConfig.
	ldapclient.Config

	// UserDN is the DN of a user's entry, or the name of the account in Active
	// Directory, built from the login. Without it the entry is found by a search.
	UserDN DNTemplate `toml:"user_dn"`

	// SearchBase is the base of the search. (search_base)
	SearchBase ldapclient.DN `toml:"search_base"`

	// QueryFilter matches the entry of one user only. (query_filter)
	QueryFilter FilterTemplate `toml:"query_filter"`

	// Scope is the scope of the search. (scope)
	Scope ldapclient.Scope `toml:"scope"`

	// UserAttribute is the attribute with the canonical name of the user. Without
	// it that is the login in lower case, whose domain must then be part of
	// query_filter or user_dn. If user_dn is the name of an account, it is the name
	// that the server returns. (result_attribute)
	UserAttribute string `toml:"user_attribute"`

	// DisabledFilter matches the entries of users that may not log in. It is applied
	// after the password was found right.
	DisabledFilter Filter `toml:"disabled_filter"`
}

// Defaults returns the values of keys that the table leaves out.
func Defaults() Config {
	return Config{
		Config:      ldapclient.Defaults(),
		QueryFilter: FilterTemplate{"(&(objectClass=person)(uid={user}))"},
		Scope:       ldapclient.ScopeSub,
	}
}

// Validate implements auth.BackendConfig.
func (c *Config) Validate(bad func(key, why string)) {
	client := c.Config
	if c.UserDN.text == "" {
		if c.SearchBase.String() == "" {
			bad("search_base", `is missing: write the base of the users' entries, such as "ou=people,dc=example,dc=org", or write user_dn to bind without a search`)
		}
	} else {
		c.validateNoSearch(bad)
		client.BindDN, client.BindPasswordFile = ldapclient.Account{}, "" // no errors about these
	}
	client.Validate(bad)
	if c.UserAttribute == "" && c.ignoresDomain() && !c.UserDN.account {
		bad("user_attribute", fmt.Sprintf(`is missing: %q ignores the domain of the login, so that a user could log in with a name of another domain; set it to the attribute with the canonical name, such as "mail"`, c.template()))
	}
	if c.UserAttribute == "" && c.UserDN.text == "" && c.severalAttributes() {
		bad("user_attribute", fmt.Sprintf(`is missing: %q finds a user by several attributes, so that one user would have several names; set it to the attribute with the canonical name, such as "mail"`, c.QueryFilter))
	}
	if c.UserAttribute != "" && !attributeName.MatchString(c.UserAttribute) {
		bad("user_attribute", `must be the name of one attribute, such as "uid" or "mail"`)
	}
}

// template is what names or finds the entry of a login.
func (c *Config) template() string { return cmp.Or(c.UserDN.text, c.QueryFilter.text) }

// ignoresDomain reports whether one entry belongs to logins of many domains.
func (c *Config) ignoresDomain() bool { return loginVariables.IgnoresDomain(c.template()) }

// severalAttributes reports whether query_filter compares the login with more than one attribute.
func (c *Config) severalAttributes() bool {
	first := ""
	for _, m := range comparison.FindAllStringSubmatch(c.QueryFilter.text, -1) {
		if first = cmp.Or(first, m[1]); !strings.EqualFold(first, m[1]) {
			return true
		}
	}
	return false
}

// comparison matches an item of a filter with the login, and its attribute.
var comparison = regexp.MustCompile(`\(([A-Za-z0-9.;-]+)[^()=]*=[^()]*\{(?:user|local)\}`)

// RFC 4512, section 1.4: descr.
var attributeName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)

// validateNoSearch reports keys that have no effect with user_dn.
func (c *Config) validateNoSearch(bad func(key, why string)) {
	unused := []struct {
		key string
		set bool
	}{
		{"search_base", c.SearchBase.String() != ""},
		{"bind_dn", c.BindDN.String() != ""},
		{"bind_password_file", c.BindPasswordFile != ""},
	}
	for _, u := range unused {
		if u.set {
			bad(u.key, "is for a search, which user_dn replaces; remove one of the two")
		}
	}
}

// Open implements auth.BackendConfig. It reads the password and the certificates,
// and does not connect.
func (c *Config) Open(env *auth.Env) (auth.Backend, error) { return New(*c, env.Events) }

// loginVariables are the variables of user_dn and query_filter.
var loginVariables = ldapclient.Variables{
	Whole: "{user}", Local: "{local}", Domain: "{domain}",
	Constant:      "is the same for every user; write {user} in place of the login",
	ExampleDN:     "uid={user},ou=people,dc=example,dc=org",
	ExampleFilter: "(&(objectClass=person)(uid={user}))",
}

// errNoDomain means that a login does not fit a template.
var errNoDomain = errors.New("the login has no domain, which the template needs for {domain}, or a character that no account has")

// A DNTemplate builds the distinguished name of a user's entry, or the name of an account in
// Active Directory, from the login:
//
//	uid={user},ou=people,dc=example,dc=org
//	uid={local},ou={domain},dc=example,dc=org
//	{local}@corp.example.com
//	CORP\{user}
//
// {user} is the login, {local} the part before its last "@" (all of it, if there is
// none), and {domain} the part after it. In a DN they are escaped, so each stays one value. The
// name of an account has no escapes: see [ldapclient.Variables.FillAccount]. The zero value is
// none.
type DNTemplate struct {
	text    string
	account bool // the name of an account
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *DNTemplate) UnmarshalText(text []byte) error {
	s := string(text)
	account := loginVariables.CheckAccount(s) == nil
	if s != "" && !account {
		if err := loginVariables.CheckDN(s); err != nil {
			return err
		}
	}
	*t = DNTemplate{s, account}
	return nil
}

// fill returns the name for a bind, or false if there can be no entry for the login.
func (t DNTemplate) fill(login string) (name string, ok bool) {
	if t.account {
		return loginVariables.FillAccount(t.text, login)
	}
	return loginVariables.FillDN(t.text, login)
}

func (t DNTemplate) String() string { return t.text }

// A FilterTemplate builds the filter that finds the entry of a user, with the variables of
// [DNTemplate]:
//
//	(&(objectClass=person)(uid={user}))
type FilterTemplate struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *FilterTemplate) UnmarshalText(text []byte) error {
	if err := loginVariables.CheckFilter(string(text)); err != nil {
		return err
	}
	*t = FilterTemplate{string(text)}
	return nil
}

func (t FilterTemplate) String() string { return t.text }

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
