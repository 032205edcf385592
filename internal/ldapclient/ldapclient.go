// Package ldapclient searches LDAP directories (RFC 4511) for the user store and for lookup
// tables: OpenLDAP, 389 Directory Server, FreeIPA, Active Directory and others.
//
// A [Client] is opened from a [Config], which lists equivalent servers:
//
//	client, err := ldapclient.New(cfg, events)
//	filter, ok := variables.FillFilter("(mail={user})", "alice@example.org")
//	entries, err := client.Search(ctx, semaphore.Turn{}, ldapclient.Query{Base: base, Filter: filter, Attributes: []string{"cn"}, Limit: 2})
//
// [Client.Search] has the rights of the service account. For several requests, or to bind as
// another entry, [Client.Do] calls a function of the caller with a connection.
//
// Connections are encrypted, by StartTLS or from the first byte, unless they stay on this
// machine (RFC 4513, section 3.1). The service account binds with its password (RFC 4513,
// section 5.1.3); without an account the connection is anonymous. Connections are pooled in
// two separate sets: those bound as the service account, and those on which the caller binds.
// The latter are bound anonymously before they return to the pool.
//
// The servers are asked in the order of the configuration until one answers. A server that
// does not answer is asked last for a while, and [Events] reports it. A refusal is an answer,
// and so is a [ConfigError]. Errors name keys of the configuration: those of [Config], and
// search_base and query_filter for the [Query].
//
// Input of clients is only inserted as a value into a DN or a filter, escaped as RFC 4514,
// section 2.4, and RFC 4515, section 3, require; see [Variables].
//
// Everything is bounded:
//
//   - Every wait ends with the caller's ctx, whose time the servers share. Without a deadline
//     each server has 10 seconds.
//   - At most Config.Connections connections to a server are open. Further requests wait.
//   - A server may send 256 KiB for one request, in 10,000 BER elements that are nested at most 12
//     deep, with 4 KiB of controls. The library gets a message only after that has been checked.
//     [Query] has the number of entries.
//
// Left out: SASL binds, client certificates, referrals, aliases and changes of entries.
package ldapclient

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"postern/internal/access"
	"postern/internal/fileperm"
	"postern/internal/hosturl"
)

// Config has the servers and the service account. The names in parentheses are those of
// Postfix's ldap_table(5).
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

	// BindDN is the account that searches. Without it the search is anonymous,
	// which the directory must allow. (bind_dn)
	BindDN Account `toml:"bind_dn"`

	// BindPasswordFile is a file with the password of BindDN on its only line. It
	// must not be readable for others. (bind_pw)
	BindPasswordFile string `toml:"bind_password_file"`

	// Connections is the maximum number of connections to one server.
	Connections int `toml:"connections"`

	// IdleTime is how long an unused connection is kept open.
	IdleTime time.Duration `toml:"idle_time"`
}

// Defaults returns the values of keys that the configuration leaves out.
func Defaults() Config {
	return Config{
		ServerHost:  []URL{{URL: hosturl.URL{Scheme: schemePlain, Host: "localhost", Address: "localhost:389"}}},
		Verify:      true,
		Connections: 16,
		IdleTime:    time.Minute,
	}
}

// Validate calls bad for each value that is not valid.
func (c *Config) Validate(bad func(key, why string)) {
	c.validateServers(bad)
	switch {
	case c.BindDN.text != "" && c.BindPasswordFile == "":
		bad("bind_password_file", "is missing: name the file with the password of bind_dn")
	case c.BindDN.text == "" && c.BindPasswordFile != "":
		bad("bind_dn", "is missing: write the account whose password is in bind_password_file, or leave both out to search anonymously")
	case c.BindPasswordFile != "" && !filepath.IsAbs(c.BindPasswordFile):
		bad("bind_password_file", "must be an absolute path; the service does not run in your current directory")
	}
	if c.Connections < 1 || c.Connections > 1000 {
		bad("connections", "must be between 1 and 1000; a few serve hundreds of logins a second")
	}
	if c.IdleTime <= 0 {
		bad("idle_time", `must be positive; write a duration such as "1m", or leave the key out`)
	}
}

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

// Location returns the servers, for the administrator.
func (c *Config) Location() string {
	servers := make([]string, len(c.ServerHost))
	for i, u := range c.ServerHost {
		servers[i] = u.String()
	}
	return strings.Join(servers, " ")
}

// Access adds the files and the hosts that the client needs. key makes the full key of the
// configuration.
func (c *Config) Access(key func(string) string, list *access.List) {
	for _, u := range c.ServerHost {
		list.Connect(key("server_host"), u.String())
	}
	list.Read(key("ca_file"), c.CAFile)
	list.ReadAs(fileperm.Secret, key("bind_password_file"), c.BindPasswordFile)
}

// Events receives what happens to the servers. The methods are called by many goroutines at
// once and must not block.
type Events interface {
	ServerDown(server string, err error)
	ServerUp(server string) // after ServerDown
}
