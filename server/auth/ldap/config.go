package ldap

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/access"
	"postern/internal/hosturl"
	"postern/server/auth"
)

// Config is a table [[auth.stores]] of kind "ldap". The names in parentheses
// are those of Postfix's ldap_table(5).
type Config struct {
	// ServerHost lists the servers in order: a server is asked if those before it
	// do not answer. (server_host)
	ServerHost []URL `toml:"server_host"`

	// StartTLS also encrypts connections to ldap:// on loopback. Those to other
	// hosts are always encrypted, since they carry passwords. (start_tls)
	StartTLS bool `toml:"start_tls"`

	// CAFile is a file with PEM certificates of the authorities that are trusted
	// instead of the system's. (tls_ca_cert_file)
	CAFile string `toml:"ca_file"`

	// Verify verifies the certificate of a server. It can be switched off for
	// loopback only. (tls_require_cert)
	Verify bool `toml:"verify"`

	// UserDN is the DN of a user's entry, built from the login. Without it the
	// entry is found by a search.
	UserDN DNTemplate `toml:"user_dn"`

	// SearchBase is the base of the search. (search_base)
	SearchBase DN `toml:"search_base"`

	// QueryFilter matches the entry of one user only. (query_filter)
	QueryFilter FilterTemplate `toml:"query_filter"`

	// Scope is the scope of the search. (scope)
	Scope Scope `toml:"scope"`

	// BindDN is the account that searches. Without it the search is anonymous,
	// which the directory must allow. (bind_dn)
	BindDN DN `toml:"bind_dn"`

	// BindPasswordFile is a file with the password of BindDN on its only line. It
	// must not be readable for others. (bind_pw)
	BindPasswordFile string `toml:"bind_password_file"`

	// UserAttribute is the attribute with the canonical name of the user. Without
	// it that is the login in lower case, whose domain must then be part of
	// query_filter or user_dn. (result_attribute)
	UserAttribute string `toml:"user_attribute"`

	// DisabledFilter matches the entries of users that may not log in. It is applied
	// after the password was found right.
	DisabledFilter Filter `toml:"disabled_filter"`

	// Connections is the maximum number of connections to one server.
	Connections int `toml:"connections"`

	// IdleTime is how long an unused connection is kept open.
	IdleTime time.Duration `toml:"idle_time"`
}

// Defaults returns the values of keys that the table leaves out.
func Defaults() Config {
	return Config{
		ServerHost:  []URL{{URL: hosturl.URL{Scheme: schemePlain, Host: "localhost", Address: "localhost:389"}}},
		Verify:      true,
		QueryFilter: FilterTemplate{"(&(objectClass=person)(uid={user}))"},
		Scope:       Scope{ldap.ScopeWholeSubtree},
		Connections: 16,
		IdleTime:    time.Minute,
	}
}

// Validate implements auth.BackendConfig.
func (c *Config) Validate(bad func(key, why string)) {
	c.validateServers(bad)
	if c.UserDN.text == "" {
		c.validateSearch(bad)
	} else {
		c.validateNoSearch(bad)
	}
	if template := cmp.Or(c.UserDN.text, c.QueryFilter.text); c.UserAttribute == "" && ignoresDomain(template) {
		bad("user_attribute", fmt.Sprintf(`is missing: %q ignores the domain of the login, so that a user could log in with a name of another domain; set it to the attribute with the canonical name, such as "mail"`, template))
	}
	if c.UserAttribute != "" && !attributeName.MatchString(c.UserAttribute) {
		bad("user_attribute", `must be the name of one attribute, such as "uid" or "mail"`)
	}
	if c.Connections < 1 || c.Connections > 1000 {
		bad("connections", "must be between 1 and 1000; a few serve hundreds of logins a second")
	}
	if c.IdleTime <= 0 {
		bad("idle_time", `must be positive; write a duration such as "1m", or leave the key out`)
	}
}

// RFC 4512, section 1.4: descr.
var attributeName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)

func (c *Config) validateServers(bad func(key, why string)) {
	if len(c.ServerHost) == 0 {
		bad("server_host", `has no server; name one, or leave the key out for ["ldap://localhost:389"]`)
	}
	seen := make(map[URL]bool)
	for _, u := range c.ServerHost {
		if seen[u] {
			bad("server_host", fmt.Sprintf("lists %s twice; remove one", u))
		}
		seen[u] = true
		if !c.Verify && !u.IsLocal() {
			bad("verify", fmt.Sprintf("must be true for %s, since false would send passwords to any server that answers there; false is for loopback only; name the CA of the server in ca_file instead", u))
		}
	}
	if c.CAFile != "" && !filepath.IsAbs(c.CAFile) {
		bad("ca_file", "must be an absolute path; the service does not run in your current directory")
	}
}

func (c *Config) validateSearch(bad func(key, why string)) {
	if c.SearchBase.text == "" {
		bad("search_base", `is missing: write the base of the users' entries, such as "ou=people,dc=example,dc=org", or write user_dn to bind without a search`)
	}
	switch {
	case c.BindDN.text != "" && c.BindPasswordFile == "":
		bad("bind_password_file", "is missing: name the file with the password of bind_dn")
	case c.BindDN.text == "" && c.BindPasswordFile != "":
		bad("bind_dn", "is missing: write the account whose password is in bind_password_file, or leave both out to search anonymously")
	case c.BindPasswordFile != "" && !filepath.IsAbs(c.BindPasswordFile):
		bad("bind_password_file", "must be an absolute path; the service does not run in your current directory")
	}
}

// validateNoSearch reports keys that have no effect with user_dn.
func (c *Config) validateNoSearch(bad func(key, why string)) {
	unused := []struct {
		key string
		set bool
	}{
		{"search_base", c.SearchBase.text != ""},
		{"bind_dn", c.BindDN.text != ""},
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

// Location implements auth.BackendConfig.
func (c *Config) Location() string {
	servers := make([]string, len(c.ServerHost))
	for i, u := range c.ServerHost {
		servers[i] = u.String()
	}
	return strings.Join(servers, " ")
}

// Access implements auth.BackendConfig.
func (c *Config) Access(key func(string) string, list *access.List) {
	for _, u := range c.ServerHost {
		list.Connect(key("server_host"), u.String())
	}
	list.Read(key("ca_file"), c.CAFile)
	list.Read(key("bind_password_file"), c.BindPasswordFile)
}
