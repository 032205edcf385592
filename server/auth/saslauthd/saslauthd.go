// Package saslauthd verifies passwords with the saslauthd of Cyrus SASL (saslauthd(8)), or
// another daemon with the same protocol. Its [Store] has the ability
// [auth.PasswordVerifier].
//
// The protocol is one connection to a Unix socket for each request: the client sends login,
// password, service and realm, and the daemon answers OK or NO with a text and closes the
// connection. There is no answer for a temporary error: the daemon then sends NO, too, or
// closes the connection. So NO is [auth.Unknowable], and everything else but OK is a
// temporary error.
//
// protocol.go has both sides of the protocol, since "postern pam-helper" (package pam) is a
// daemon, and an extension between the two: a fifth string with the client's address. The
// store of this package never sends it.
//
// Login and password are at most [MaxField] bytes. Every call ends with its ctx.
//
// Debian's saslauthd has its socket in a folder that only the group sasl may enter, or in
// Postfix's chroot. The errors name the folder, and the command that gives access.
//
// Left out: the names of users, which saslauthd does not return.
package saslauthd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"postern/internal/access"
	"postern/server/auth"
)

// Kind is the kind of this store in the configuration, and its default name in the log.
const Kind = "saslauthd"

// Config is a table [[auth.stores]] of kind "saslauthd".
type Config struct {
	// Path is the absolute path of the socket. If saslauthd serves a Postfix in its
	// chroot, it is "/var/spool/postfix/var/run/saslauthd/mux".
	Path string `toml:"path"`

	// Service is the PAM service that saslauthd uses.
	Service string `toml:"service"`

	// Realm is sent with each login. saslauthd uses it with sasldb, with LDAP (%r of
	// ldap_filter), and with PAM if it was started with -r.
	Realm string `toml:"realm"`
}

// Defaults returns the values of keys that the table leaves out.
func Defaults() Config {
	return Config{Path: "/run/saslauthd/mux", Service: "smtp"}
}

// maxPath is the longest path of a socket on Linux.
const maxPath = 107 // bytes

// maxWord bounds service and realm. saslauthd refuses longer ones.
const maxWord = 256 // bytes

// Validate implements auth.BackendConfig.
func (c *Config) Validate(bad func(key, why string)) {
	if !filepath.IsAbs(c.Path) || len(c.Path) > maxPath {
		bad("path", `must be the absolute path of a socket, such as "/run/saslauthd/mux" or, in the chroot of Postfix, `+
			`"/var/spool/postfix/var/run/saslauthd/mux"; it may have at most 107 bytes`)
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

// A Store sends requests to one saslauthd. It may be used by many goroutines at once. It has
// no goroutines and connections between calls, so it has no Close.
type Store struct{ cfg Config }

var _ auth.PasswordVerifier = (*Store)(nil)

// New returns a store. It does not connect, so saslauthd may be started later.
func New(cfg Config) *Store { return &Store{cfg} }

// VerifyPassword implements auth.PasswordVerifier. The canonical user is the unchanged login,
// since saslauthd does not return a name. A login or a password of more than [MaxField]
// bytes is refused for every user without asking saslauthd.
func (s *Store) VerifyPassword(ctx context.Context, _ *auth.Peer, login, password string) (auth.Identity, error) {
	a, err := s.ask(ctx, Request{Login: login, Password: password, Service: s.cfg.Service, Realm: s.cfg.Realm})
	if err != nil {
		return auth.Identity{}, Refusal(Kind, err)
	}
	switch a.Verdict {
	case OK:
		return auth.Identity{User: login, Store: Kind}, nil
	case NO:
		f := &auth.Failure{Kind: auth.Unknowable, Store: Kind}
		if a.Text != "" {
			f.Reason = "saslauthd: " + Clip(a.Text)
		}
		return auth.Identity{}, f
	}
	return auth.Identity{}, &auth.Unavailable{Store: Kind, Err: fmt.Errorf("saslauthd answered %s, want OK or NO", Clip(a.Text))}
}

func (s *Store) ask(ctx context.Context, r Request) (Answer, error) {
	if err := r.Fits(); err != nil {
		return Answer{}, err
	}
	conn, err := Dial(ctx, s.cfg.Path)
	if err != nil {
		return Answer{}, explainStore(s.cfg.Path, err)
	}
	answered := auth.Asking(ctx)
	a, err := Ask(ctx, conn, r)
	if err == nil {
		answered()
	}
	return a, err
}

// Refusal returns the error of a store for a request that was not answered. For a string
// that does not fit it is a failure after which the next store is asked.
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

// checkTime bounds the wait for the answer to an empty request, for which saslauthd needs no
// other service.
const checkTime = 5 * time.Second

// Check connects, sends a request without a login, and returns the error with its remedy. An
// error names the daemon if another one than saslauthd answers.
func (s *Store) Check(ctx context.Context) error {
	conn, err := Dial(ctx, s.cfg.Path)
	if err != nil {
		return explainStore(s.cfg.Path, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	return check(ctx, conn, s.cfg.Path)
}

// A connect to a Unix socket whose backlog is full fails at once, so Dial repeats it after
// these pauses.
const (
	minPause = 5 * time.Millisecond
	maxPause = 200 * time.Millisecond
)

// Dial connects to the socket at path. While the backlog of the daemon is full it waits,
// until ctx ends at most. Other errors contain the next step.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		conn, err := d.DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			return conn, nil
		case !errors.Is(err, syscall.EAGAIN):
			return nil, explain(path, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("the backlog of %s is full: %w", path, context.Cause(ctx))
		}
	}
}

// Ask sends r on conn, reads the answer, and closes conn in any case. It ends with ctx. The
// error is a [*FieldError] if nothing was sent.
func Ask(ctx context.Context, conn net.Conn, r Request) (Answer, error) {
	defer conn.Close()
	text, err := r.Append(nil)
	if err != nil {
		return Answer{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// A daemon that refuses early may close the connection before it has read all of the
	// request. Its answer can still be read.
	_, sent := conn.Write(text)
	a, err := ReadAnswer(conn)
	foreign, isForeign := errors.AsType[*foreignError](err)
	switch {
	case err == nil:
		return a, nil
	case isForeign:
		return Answer{}, foreign
	case ctx.Err() != nil:
		return Answer{}, fmt.Errorf("no answer in time: %w", context.Cause(ctx))
	case sent != nil:
		return Answer{}, fmt.Errorf("the daemon closed the connection before it had read the request: %w", sent)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return Answer{}, fmt.Errorf("the daemon closed the connection without an answer: %w", err)
	}
	return Answer{}, fmt.Errorf("the daemon closed the connection during its answer: %w", err)
}
