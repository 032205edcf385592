// Package dovecot authenticates users with the auth service of Dovecot, as Postfix
// does with smtpd_sasl_type = dovecot. It implements the client side of Dovecot's
// authentication protocol, versions 1.0 to 1.2
// (https://doc.dovecot.org/main/developers/design/auth_protocol.html), over a Unix or
// TCP socket.
//
// A [Store] has the ability [auth.PasswordVerifier]: among other stores it checks
// passwords by the mechanism PLAIN. A [Proxy], for a configuration with Dovecot as its
// only store, is an [auth.Provider]: it forwards the messages of every mechanism that
// Dovecot offers.
//
// One connection carries all exchanges, each with its own number. It is replaced every
// minute, since Dovecot serves a connection with the configuration from its start. If
// Dovecot does not answer, the next exchange tries a new connection. If that fails,
// exchanges fail at once until the next attempt is due.
//
// Everything that Dovecot sends is bounded in length, number and time, and a line that
// violates the protocol ends the connection. A user is authenticated only by an OK that
// answers the message just sent and contains a user name.
//
// Differences from Postfix:
//
//   - An OK with "nologin" is a refusal, as Dovecot documents it: the password is right
//     and the account is closed.
//   - An OK with "proxy" is a temporary error. A proxying Dovecot passes logins on to
//     another server, which decides. Often it does not check the password itself
//     ("nopassword"), and its answer does not show whether it did.
//   - "no-penalty" is sent, since [throttle.Throttle] delays addresses that guess and spares
//     the users known there. Without it they would be delayed twice. Dovecot still gets
//     the address for its log and its policy server, and still delays a refusal by 2
//     seconds.
//   - Mechanisms that cannot work here are not offered: EXTERNAL, since no client
//     certificate is verified, and -PLUS, since Dovecot does not see the client's TLS
//     connection.
//   - "user_disabled" and "pass_expired" become [auth.Disabled] and [auth.Expired]. Some
//     of Dovecot's databases report them before they have checked the password; its IMAP
//     service shows them to the client all the same.
//
// Left out: the master protocol (userdb lookups) and client certificates.
package dovecot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"postern/internal/access"
	"postern/server/auth"
)

// Kind is the kind of this store in the configuration, and its default name in the log.
const Kind = "dovecot"

// Config is a table [[auth.stores]] of kind "dovecot".
type Config struct {
	// Path is the socket of the auth service, as in smtpd_sasl_path:
	// "/run/dovecot/auth-postern", or "inet:127.0.0.1:12345".
	Path Address `toml:"path"`
}

// Defaults returns the values of keys that the table leaves out.
func Defaults() Config {
	return Config{Path: Address{network: "unix", addr: "/run/dovecot/auth-postern"}}
}

// Validate implements auth.BackendConfig.
func (c *Config) Validate(bad func(key, why string)) {
	if c.Path.addr == "" {
		bad("path", `must be Dovecot's socket, such as "/run/dovecot/auth-postern" or "inet:127.0.0.1:12345"`)
	}
}

// Open implements auth.BackendConfig. It does not wait for the connection.
func (c *Config) Open(env *auth.Env) (auth.Backend, error) { return New(*c, env.Events), nil }

// Location implements auth.BackendConfig.
func (c *Config) Location() string { return c.Path.String() }

// Access implements auth.BackendConfig.
func (c *Config) Access(key func(string) string, list *access.List) {
	list.Connect(key("path"), c.Path.String())
}

// An Address is the address of the auth service. Passwords cross a TCP connection
// unencrypted, so it should use the loopback interface, or a network between
// containers of one machine.
type Address struct{ network, addr string }

// UnmarshalText implements encoding.TextUnmarshaler. The prefixes "unix:" and "inet:"
// are Postfix's.
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
		return fmt.Errorf("%q is not an absolute path; Postfix's private/auth is /var/spool/postfix/private/auth", s)
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

// A Store verifies passwords with Dovecot. It may be used by many goroutines at once,
// and must be closed.
type Store struct{ link *link }

var _ auth.PasswordVerifier = (*Store)(nil)

// New returns a store. It connects in the background, so it succeeds if Dovecot is not
// running yet.
func New(cfg Config, events auth.Events) *Store {
	s := &Store{link: newLink(cfg.Path, events)}
	s.link.refresh()
	return s
}

// Close ends the connection and all exchanges on it. It returns when all goroutines of
// the store have ended.
func (s *Store) Close() error {
	s.link.close()
	return nil
}

// Reload makes the next exchange use a new connection, and so Dovecot's current
// configuration. Exchanges on the old connection go on.
func (s *Store) Reload(context.Context) error {
	s.link.renew()
	return nil
}

var (
	errNoPlain   = errors.New("dovecot does not offer PLAIN; add it to auth_mechanisms in its configuration")
	errChallenge = errors.New("dovecot sent a challenge after a complete PLAIN message")
)

// VerifyPassword implements auth.PasswordVerifier. It waits until ctx ends. Login and
// password must fit in a line of Dovecot's protocol, together about 12,000 octets (6,000
// before version 1.2 of the protocol). Longer ones are refused for every user without
// asking Dovecot.
func (s *Store) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (auth.Identity, error) {
	// RFC 4616, section 2: NUL ends a field.
	if strings.ContainsRune(login+password, 0) {
		return auth.Identity{}, &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: "NUL in the name or the password"}
	}
	r, err := s.link.open(ctx, "PLAIN")
	switch {
	case errors.Is(err, auth.ErrMechanism):
		return auth.Identity{}, unavailable(errNoPlain)
	case err != nil:
		return auth.Identity{}, unavailable(err)
	}
	defer r.cancel()
	answered := auth.Asking(ctx)
	a, err := r.ask(ctx, authLine(r.id, "PLAIN", p, []byte("\x00"+login+"\x00"+password)))
	if err == nil {
		answered()
	}
	switch {
	case errors.Is(err, errTooLong):
		return auth.Identity{}, err
	case err != nil:
		return auth.Identity{}, unavailable(err)
	case a.verb == verbCont:
		return auth.Identity{}, unavailable(errChallenge)
	}
	return a.result()
}

func unavailable(err error) error { return &auth.Unavailable{Store: Kind, Err: err} }

// Check opens a second connection, and returns what is wrong and how to repair it.
func (s *Store) Check(ctx context.Context) error {
	_, err := s.probe(ctx)
	return err
}

// probe opens a second connection and returns the mechanisms that Dovecot offers.
func (s *Store) probe(ctx context.Context) ([]mechanism, error) {
	c, err := connect(ctx, s.link.addr)
	if err != nil {
		return nil, s.link.addr.explainPeer(ctx, err)
	}
	return c.greeting.mechanisms, c.net.Close()
}
