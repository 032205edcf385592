package dovecot

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"postern/internal/access"
	"postern/server/auth"
)

// Config is a table [[auth.stores]] of kind "dovecot".
type Config struct {
	// Path is where the auth service listens, as in smtpd_sasl_path:
	// "/run/dovecot/auth-postern", or "inet:127.0.0.1:12345".
	Path Address `toml:"path"`
}

// Defaults returns the values that apply where the table says nothing.
func Defaults() Config {
	return Config{Path: Address{network: "unix", addr: "/run/dovecot/auth-postern"}}
}

// Validate reports each value that makes no sense, with its key relative to the
// table.
func (c *Config) Validate(bad func(key, why string)) {
	if c.Path.addr == "" {
		bad("path", `must name Dovecot's socket, such as "/run/dovecot/auth-postern" or "inet:127.0.0.1:12345"`)
	}
}

// An Address is where the auth service listens. Passwords cross a TCP
// connection in clear: it belongs on the loopback interface, or between
// containers of one machine.
type Address struct{ network, addr string }

// UnmarshalText implements encoding.TextUnmarshaler. The prefixes "unix:" and
// "inet:" are Postfix's.
func (a *Address) UnmarshalText(text []byte) error {
	s := string(text)
	if addr, ok := strings.CutPrefix(s, "inet:"); ok {
		host, port, err := net.SplitHostPort(addr)
		if err != nil || host == "" || port == "" {
			return fmt.Errorf("%q has no host and port; write it as inet:127.0.0.1:12345", s)
		}
		*a = Address{network: "tcp", addr: addr}
		return nil
	}
	path := strings.TrimPrefix(s, "unix:")
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is not an absolute path; what Postfix calls private/auth is /var/spool/postfix/private/auth", s)
	}
	*a = Address{network: "unix", addr: filepath.Clean(path)}
	return nil
}

func (a Address) String() string {
	if a.network == "tcp" {
		return "inet:" + a.addr
	}
	return a.addr
}

// Open implements auth.BackendConfig. It does not wait for the connection.
func (c *Config) Open(env *auth.Env) (auth.Backend, error) { return New(*c, env.Events), nil }

// Location implements auth.BackendConfig.
func (c *Config) Location() string { return c.Path.String() }

// Access implements auth.BackendConfig.
func (c *Config) Access(key func(string) string, list *access.List) {
	list.Connect(key("path"), c.Path.String())
}
