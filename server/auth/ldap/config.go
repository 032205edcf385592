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
	// ServerHost lists the servers: the first that is well is asked, the
	// others, in their order, when it is not. (server_host)
	ServerHost []URL `toml:"server_host"`

	// StartTLS says whether ldap:// on loopback gets TLS as well. A server
	// elsewhere always does: passwords are sent to it. (start_tls)
	StartTLS bool `toml:"start_tls"`

	// CAFile holds the PEM certificates that vouch for the servers, instead
	// of the system's. (tls_ca_cert_file)
	CAFile string `toml:"ca_file"`

	// Verify says whether a server must prove its name by its certificate. It
	// can be switched off for loopback only. (tls_require_cert)
	Verify bool `toml:"verify"`

	// UserDN makes the name of a user's entry from the login. Without it the
	// entry is searched for.
	UserDN DNTemplate `toml:"user_dn"`

	// SearchBase is where the search for the entry begins. (search_base)
	SearchBase DN `toml:"search_base"`

	// QueryFilter finds the entry of a user, and no other. (query_filter)
	QueryFilter FilterTemplate `toml:"query_filter"`

	// Scope is how deep to search. (scope)
	Scope Scope `toml:"scope"`

	// BindDN is the account that searches; empty means nobody, if the
	// directory lets everybody search. (bind_dn)
	BindDN DN `toml:"bind_dn"`

	// BindPasswordFile holds the password of BindDN on its one line. It must
	// not be readable by everybody. (bind_pw)
	BindPasswordFile string `toml:"bind_password_file"`

	// UserAttribute is where an entry has the canonical name of its user.
	// Empty means the login in lower case, which has to have its domain
	// looked at by query_filter or user_dn. (result_attribute)
	UserAttribute string `toml:"user_attribute"`

	// DisabledFilter matches the entries of those who may not log in. They
	// are told so, if their password is right.
	DisabledFilter Filter `toml:"disabled_filter"`

	// Connections are open at once to one server at most.
	Connections int `toml:"connections"`

	// IdleTime is how long a connection that nobody needs is kept.
	IdleTime time.Duration `toml:"idle_time"`
}

// Defaults returns the values that apply where the table says nothing.
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

// Validate reports each value that makes no sense, with its key relative to the
// table.
func (c *Config) Validate(bad func(key, why string)) {
	c.validateServers(bad)
	if c.UserDN.text == "" {
		c.validateSearch(bad)
	} else {
		c.validateNoSearch(bad)
	}
	if template := cmp.Or(c.UserDN.text, c.QueryFilter.text); c.UserAttribute == "" && forgetsDomain(template) {
		bad("user_attribute", fmt.Sprintf(`is missing: %q takes a login of any domain, so that a user could choose whose name to bear; write the attribute with the name, such as "mail"`, template))
	}
	if c.UserAttribute != "" && !attributeName.MatchString(c.UserAttribute) {
		bad("user_attribute", `must be the name of one attribute, such as "uid" or "mail"`)
	}
	if c.Connections < 1 || c.Connections > 1000 {
		bad("connections", "must be between 1 and 1000; a few serve hundreds of logins a second")
	}
	if c.IdleTime <= 0 {
		bad("idle_time", `must be more than nothing: write a duration such as "1m", or leave the key out`)
	}
}

// RFC 4512, section 1.4: descr.
var attributeName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)

func (c *Config) validateServers(bad func(key, why string)) {
	if len(c.ServerHost) == 0 {
		bad("server_host", `no server: nobody could be asked; leave the key out for ["ldap://localhost:389"]`)
	}
	seen := make(map[URL]bool)
	for _, u := range c.ServerHost {
		if seen[u] {
			bad("server_host", fmt.Sprintf("%s stands there twice: remove one", u))
		}
		seen[u] = true
		if !c.Verify && !u.IsLocal() {
			bad("verify", fmt.Sprintf("verify = false would hand every password to whoever answers for %s: it is for loopback only; name the CA of the server in ca_file instead", u))
		}
	}
	if c.CAFile != "" && !filepath.IsAbs(c.CAFile) {
		bad("ca_file", "must be an absolute path; the service does not run in the folder that you stand in")
	}
}

func (c *Config) validateSearch(bad func(key, why string)) {
	if c.SearchBase.text == "" {
		bad("search_base", `is missing: write where the users are, such as "ou=people,dc=example,dc=org", or write user_dn to bind without a search`)
	}
	switch {
	case c.BindDN.text != "" && c.BindPasswordFile == "":
		bad("bind_password_file", "is missing: name the file with the password of bind_dn")
	case c.BindDN.text == "" && c.BindPasswordFile != "":
		bad("bind_dn", "is missing: write whose password is in bind_password_file, or leave both out to search as nobody")
	case c.BindPasswordFile != "" && !filepath.IsAbs(c.BindPasswordFile):
		bad("bind_password_file", "must be an absolute path; the service does not run in the folder that you stand in")
	}
}

// validateNoSearch looks for what user_dn makes useless.
func (c *Config) validateNoSearch(bad func(key, why string)) {
	useless := []struct {
		key string
		set bool
	}{
		{"search_base", c.SearchBase.text != ""},
		{"bind_dn", c.BindDN.text != ""},
		{"bind_password_file", c.BindPasswordFile != ""},
	}
	for _, u := range useless {
		if u.set {
			bad(u.key, "is for a search, and with user_dn there is none: remove one of the two")
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
