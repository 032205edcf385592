// Package saslauthd asks the saslauthd of Cyrus SASL, or whoever speaks its
// protocol, whether a password is right.
//
// The protocol is one connection to a Unix socket per question: the client
// sends login, password, service and realm, the daemon answers OK or NO with a
// text and hangs up. There is no word for "ask again later": a daemon that
// has no answer sends NO too, or hangs up. So a NO is [auth.Unknowable], and
// everything that is neither OK nor NO is a temporary error.
//
// wire.go holds the protocol in both directions, since "postern pam-helper"
// (package pam) speaks it from the other end, and also what the two add to it:
// a fifth string with the client's address. A question from this package's own
// store never has it.
//
// Debian's saslauthd keeps its socket in a folder that only the group sasl may
// pass, or in Postfix's chroot; [Store.Check] and the log name what
// is in the way, with the command that mends it.
package saslauthd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"postern/internal/access"
	"postern/server/auth"
)

// Kind is what the configuration calls this store, and its name in the log.
const Kind = "saslauthd"

// Config is a table [[auth.stores]] of kind "saslauthd".
type Config struct {
	// Path of the socket; absolute. Where saslauthd serves a Postfix in its
	// chroot: "/var/spool/postfix/var/run/saslauthd/mux".
	Path string `toml:"path"`

	// Service is what saslauthd hands on as the PAM service.
	Service string `toml:"service"`

	// Realm is sent along with each login. saslauthd makes use of it with
	// sasldb, with LDAP (%r of ldap_filter), and with PAM where it runs with -r.
	Realm string `toml:"realm"`
}

// Defaults returns the values of keys that the table leaves out.
func Defaults() Config {
	return Config{Path: "/run/saslauthd/mux", Service: "smtp"}
}

// maxPath is the room that the kernel has for the path of a socket.
const maxPath = 107 // bytes

// maxWord bounds service and realm: saslauthd refuses longer ones.
const maxWord = 256 // bytes

// Validate reports each value that makes no sense, with its key relative to the
// table.
func (c *Config) Validate(bad func(key, why string)) {
	if !filepath.IsAbs(c.Path) || len(c.Path) > maxPath {
		bad("path", `must be the absolute path of a socket, such as "/run/saslauthd/mux", or for the one that Postfix `+
			`has in its chroot "/var/spool/postfix/var/run/saslauthd/mux"; the kernel takes 107 bytes`)
	}
	if !isWord(c.Service) || c.Service == "" {
		bad("service", `must be one word of at most 256 bytes, such as "smtp"; with PAM it is the name of a file in /etc/pam.d`)
	}
	if !isWord(c.Realm) {
		bad("realm", `must be one word of at most 256 bytes, such as "example.org", or left out`)
	}
}

// Open implements auth.BackendConfig. It does not connect.
func (c *Config) Open(*auth.Env) (auth.Backend, error) { return New(*c), nil }

// Location implements auth.BackendConfig.
func (c *Config) Location() string { return c.Path }

// Access implements auth.BackendConfig. The socket is a Unix socket, which the
// sandbox does not restrict.
func (c *Config) Access(func(string) string, *access.List) {}

func isWord(s string) bool {
	return len(s) <= maxWord && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// A Store asks one saslauthd. It may be used by many goroutines at once; it
// starts none that outlives a call, and has nothing to close.
type Store struct{ cfg Config }

// New returns a store. It does not connect yet: a saslauthd that is started later
// is found then.
func New(cfg Config) *Store { return &Store{cfg} }

// VerifyPassword implements auth.PasswordVerifier. The canonical user is the
// login as it was given, since saslauthd does not return a name. A login or a
// password of more than [MaxField] bytes is refused without a question to
// saslauthd, whichever user it is for.
func (s *Store) VerifyPassword(ctx context.Context, _ *auth.Peer, login, password string) (auth.Identity, error) {
	a, err := s.ask(ctx, Request{Login: login, Password: password, Service: s.cfg.Service, Realm: s.cfg.Realm})
	if err != nil {
		return auth.Identity{}, Refusal(Kind, err)
	}
	switch a.Verdict {
	case OK:
		return auth.Identity{User: login, Store: Kind}, nil
	case NO:
		return auth.Identity{}, &auth.Failure{Kind: auth.Unknowable, Store: Kind, Reason: reason(a.Text)}
	}
	return auth.Identity{}, &auth.Unavailable{Store: Kind, Err: fmt.Errorf("saslauthd said neither OK nor NO but %s", Clip(a.Text))}
}

func (s *Store) ask(ctx context.Context, r Request) (Answer, error) {
	if err := r.Fits(); err != nil {
		return Answer{}, err
	}
	conn, err := Dial(ctx, s.cfg.Path)
	if err != nil {
		return Answer{}, err
	}
	return Ask(ctx, conn, r)
}

// Refusal is what the store of that name returns for a request that was not
// answered. A string that does not fit is a refusal by this store only: another
// one may accept it.
func Refusal(store string, err error) error {
	field, ok := errors.AsType[*FieldError](err)
	switch {
	case !ok:
		return &auth.Unavailable{Store: store, Err: err}
	case field.Field == "login":
		return &auth.Failure{Kind: auth.NoSuchUser, Store: store, Reason: "the login " + field.Why}
	}
	return &auth.Failure{Kind: auth.Unknowable, Store: store, Reason: "the " + field.Field + " " + field.Why}
}

func reason(text string) string {
	if text == "" {
		return ""
	}
	return "saslauthd says " + Clip(text)
}

// Check connects once, and returns what is in the way.
func (s *Store) Check(ctx context.Context) error {
	conn, err := Dial(ctx, s.cfg.Path)
	if err != nil {
		return err
	}
	return conn.Close()
}
