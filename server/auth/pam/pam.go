// Package pam authenticates the users of the system's PAM (Linux-PAM, pam(3)).
//
// PAM modules need root, and the process that serves the network must not have it. So two
// processes share the work. They talk over a Unix socket in the protocol of saslauthd
// (package saslauthd), extended by the client's address and by answers that distinguish
// refusals from errors:
//
//   - A [Store], in the process that serves the network, sends requests. It has the ability
//     [auth.PasswordVerifier].
//   - A [Helper], in "postern pam-helper", runs as root. It accepts only peers whose UID is
//     allowed, and starts a child for each request (child.go), which is killed after a
//     timeout: a PAM module may hang, leak or crash without an effect on other requests.
//     Other clients of saslauthd, such as the Cyrus SASL of a Postfix, can use its socket,
//     too.
//
// The helper is a service with a named socket (socket.go), or "postern serve" starts it
// while it is root, with an unnamed socket (start.go).
//
// Only the child needs libpam, and so cgo: the build tag "pam" (libpam.go). The rest is the
// same in both builds, so the static build can use a helper of the other one
// ("postern-pam").
//
// Bounds: a helper serves 1024 connections at once, with HelperConfig.Processes children,
// each for HelperConfig.Timeout. A login is at most 512 bytes, without control characters
// and slashes.
//
// Left out: sessions, credentials and changes of passwords, since users do not log in to
// the machine, and modules that ask for more than one password.
package pam

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"postern/internal/access"
	"postern/server/auth"
	"postern/server/auth/saslauthd"
)

// Kind is the kind of this store in the configuration, and its default name in the log.
const Kind = "pam"

// DefaultSocket is the default socket of "postern pam-helper".
const DefaultSocket = "/run/postern-pam/mux"

// ErrNotBuilt is returned by everything that needs libpam if the program was built without
// it.
var ErrNotBuilt = errors.New(`this postern was built without PAM: run "postern-pam" instead (the build with "-tags pam")`)

// Config is a table [[auth.stores]] of kind "pam".
type Config struct {
	// Service is the PAM service: the name of a file in /etc/pam.d.
	Service string `toml:"service"`

	// Socket is the absolute path of the socket of a "postern pam-helper". Without it
	// "postern serve" must be started as root with server.user set, and starts the
	// helper before it drops root privileges.
	Socket string `toml:"socket"`
}

// Defaults returns the values of keys that the table leaves out.
func Defaults() Config { return Config{Service: "smtp"} }

// Validate implements auth.BackendConfig.
func (c *Config) Validate(bad func(key, why string)) {
	if !isService(c.Service) {
		bad("service", `must be the name of a file in /etc/pam.d, such as "smtp"; docs/pam has examples`)
	}
	if c.Socket != "" && !filepath.IsAbs(c.Socket) {
		bad("socket", fmt.Sprintf("must be the absolute path of the socket of a running \"postern pam-helper\", such as %q, or left out", DefaultSocket))
	}
	if c.Socket == "" && !Available {
		bad("socket", fmt.Sprintf("is missing, and %v; or set it to the socket of a running \"postern-pam pam-helper\", such as %q", ErrNotBuilt, DefaultSocket))
	}
}

// isService accepts names of files without a folder. libpam uses what follows the last
// slash, in lower case.
func isService(s string) bool {
	invalid := func(r rune) bool {
		return !strings.ContainsRune("-_.", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	}
	return s != "" && len(s) <= 64 && s[0] != '.' && !strings.ContainsFunc(s, invalid)
}

// Open implements auth.BackendConfig. It does not connect.
func (c *Config) Open(env *auth.Env) (auth.Backend, error) {
	if c.Socket != "" || env.PAM == nil {
		return New(*c, nil)
	}
	started, err := env.PAM(c.Service)
	if err != nil {
		return nil, err
	}
	return New(*c, started)
}

// Location implements auth.BackendConfig.
func (c *Config) Location() string { return "service " + c.Service }

// Access implements auth.BackendConfig. The socket of the helper is a Unix socket, which
// the sandbox does not restrict, and the helper opens the files of PAM.
func (c *Config) Access(func(string) string, *access.List) {}

// NeedsHelper reports whether "postern serve" has to start the helper.
func (c *Config) NeedsHelper() bool { return c.Socket == "" }

// A Dialer opens a connection to a helper, for one request.
type Dialer = func(ctx context.Context) (net.Conn, error)

// A Store sends requests to a helper. It may be used by many goroutines at once. It has no
// goroutines and connections between calls, so it has no Close.
type Store struct {
	service string
	dial    Dialer
	where   string // for errors
}

var _ auth.PasswordVerifier = (*Store)(nil)

// New returns a store. started is [Started.Dial] of the helper that this process has
// started, or nil; it is used if cfg has no socket. New does not connect.
func New(cfg Config, started Dialer) (*Store, error) {
	switch {
	case cfg.Socket != "":
		dial := func(ctx context.Context) (net.Conn, error) { return saslauthd.Dial(ctx, cfg.Socket) }
		return &Store{cfg.Service, dial, cfg.Socket}, nil
	case !Available:
		return nil, ErrNotBuilt
	case started == nil:
		return nil, fmt.Errorf("PAM needs root: start postern as root with server.user set, or run \"postern pam-helper\" "+
			"as a service (docs/systemd/postern-pam-helper.service) and set socket = %q", DefaultSocket)
	}
	return &Store{cfg.Service, started, "the helper started by postern"}, nil
}

// VerifyPassword implements auth.PasswordVerifier. The canonical user is the PAM_USER that
// the modules have set. A login or a password of more than [saslauthd.MaxField] bytes is
// refused for every user without asking the helper.
func (s *Store) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (auth.Identity, error) {
	a, err := s.ask(ctx, login, password, p.Remote.Addr())
	if err != nil {
		return auth.Identity{}, saslauthd.Refusal(Kind, err)
	}
	return identity(a)
}

func (s *Store) ask(ctx context.Context, login, password string, client netip.Addr) (saslauthd.Answer, error) {
	r := saslauthd.Request{Login: login, Password: password, Service: s.service, Extended: true, Client: client}
	if err := r.Fits(); err != nil {
		return saslauthd.Answer{}, err
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return saslauthd.Answer{}, err
	}
	answered := auth.Asking(ctx)
	a, err := saslauthd.Ask(ctx, conn, r)
	switch {
	case err == nil:
		if !strings.HasPrefix(a.Text, overdue) { // else PAM has not answered
			answered()
		}
		return a, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return a, fmt.Errorf("%s: %w; %s", s.where, err, timeoutHint)
	}
	return a, fmt.Errorf("%s: %w", s.where, err)
}

// Check sends a request without a login, which reaches the helper but not PAM: the helper
// has to accept the connection and the service.
func (s *Store) Check(ctx context.Context) error {
	a, err := s.ask(ctx, "", "", netip.Addr{})
	switch {
	case err != nil:
		return fmt.Errorf("pam: %w; if the helper refuses this user, start it with --allow-user", err)
	case a.Verdict != saslauthd.NO:
		return fmt.Errorf("pam: %s: %s", s.where, a.Text)
	case a != reject(auth.Unknowable, emptyCredentials):
		return fmt.Errorf("pam: %s is not the socket of a postern pam-helper; if it is saslauthd's, set kind = \"saslauthd\"", s.where)
	}
	return nil
}
