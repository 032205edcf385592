// Package pam lets the users of the system's PAM log in.
//
// PAM modules want to be root, and the process that faces the network must not
// be. So two processes share the work, which talk over a Unix socket in the
// protocol of saslauthd:
//
//   - [Store], in the network process, asks. It is saslauthd's client, with a
//     fifth string for the client's address and more detailed answers than NO.
//   - [Helper], in "postern pam-helper", is root and does nothing else. It
//     accepts only peers whose UID is allowed, and starts a child for each request
//     (child.go), which is killed when it takes too long: a PAM module may hang,
//     leak or crash without an effect on other requests. Its socket serves any
//     client of saslauthd as well, such as the Cyrus SASL of a Postfix.
//
// The helper is a separate service, with a socket that has a name (socket.go),
// or "postern serve" starts it while it is still root itself, and the two are
// connected without a name (start.go).
//
// Only the child needs libpam, and with it cgo: the build tag "pam". Everything
// else is the same in both builds, so the static one can ask a helper from the
// other ("postern-pam"). libpam.go has the transaction, outcome.go what PAM's
// return codes mean here; a new code goes there. Sessions, credentials and the
// changing of passwords are left out: users do not log in to the machine.
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

// Kind is what the configuration calls this store, and its name in the log.
const Kind = "pam"

// Config is a table [[auth.stores]] of kind "pam".
type Config struct {
	// Service is the PAM service: the name of a file in /etc/pam.d.
	Service string `toml:"service"`

	// Socket of a running "postern pam-helper"; absolute. If it is empty,
	// "postern serve" has to be started as root, with server.user set: it then
	// starts the helper itself before it becomes that user.
	Socket string `toml:"socket"`
}

// NeedsHelper reports whether "postern serve" has to start the helper, while it is
// root.
func (c *Config) NeedsHelper() bool { return c.Socket == "" }

// DefaultSocket is where "postern pam-helper" listens by default.
const DefaultSocket = "/run/postern-pam/mux"

// Defaults returns the values of keys that the table leaves out.
func Defaults() Config { return Config{Service: "smtp"} }

// ErrNotBuilt is what everything returns that needs libpam in a program that was
// built without it.
var ErrNotBuilt = errors.New(`this postern was built without PAM: run "postern-pam" instead (the build with "-tags pam")`)

// Validate reports each value that makes no sense, with its key relative to the
// table.
func (c *Config) Validate(bad func(key, why string)) {
	if !isService(c.Service) {
		bad("service", `must be the name of a file in /etc/pam.d, such as "smtp"; docs/pam has examples`)
	}
	if c.Socket != "" && !filepath.IsAbs(c.Socket) {
		bad("socket", fmt.Sprintf("must be the absolute path of the socket of a running \"postern pam-helper\", such as %q, or left out", DefaultSocket))
	}
	if c.Socket == "" && !Available {
		bad("socket", fmt.Sprintf("is missing, and %v; or name here the socket of a running \"postern-pam pam-helper\", such as %q", ErrNotBuilt, DefaultSocket))
	}
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

// Access implements auth.BackendConfig. The socket of the helper is a Unix socket,
// which the sandbox does not restrict, and the helper opens the files of PAM.
func (c *Config) Access(func(string) string, *access.List) {}

// isService keeps to what can be the name of a file, and of that file only: libpam
// takes what is after the last slash, and makes it lower case.
func isService(s string) bool {
	odd := func(r rune) bool {
		return !strings.ContainsRune("-_.", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	}
	return s != "" && len(s) <= 64 && s[0] != '.' && !strings.ContainsFunc(s, odd)
}

// A Dialer opens a connection to a helper, for one question.
type Dialer = func(ctx context.Context) (net.Conn, error)

// A Store asks a helper. It may be used by many goroutines at once; it starts
// none that outlives a call, and has nothing to close.
type Store struct {
	service string
	dial    Dialer
	where   string
}

// New returns a store. started is [Started.Dial] of the helper that this process
// has started, or nil; it is used where cfg names no socket. New does not
// connect.
func New(cfg Config, started Dialer) (*Store, error) {
	switch {
	case cfg.Socket != "":
		dial := func(ctx context.Context) (net.Conn, error) { return saslauthd.Dial(ctx, cfg.Socket) }
		return &Store{cfg.Service, dial, cfg.Socket}, nil
	case !Available:
		return nil, ErrNotBuilt
	case started == nil:
		return nil, fmt.Errorf("PAM wants root: start postern as root with server.user set, or run \"postern pam-helper\" "+
			"as a service (docs/systemd/postern-pam-helper.service) and name its socket: socket = %q", DefaultSocket)
	}
	return &Store{cfg.Service, started, "the helper that postern has started"}, nil
}

// VerifyPassword implements auth.PasswordVerifier. The canonical user is what
// the modules have left in PAM_USER. A login or a password of more than
// [saslauthd.MaxField] bytes is refused without a question to the helper,
// whichever user it is for.
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
	a, err := saslauthd.Ask(ctx, conn, r)
	switch {
	case err == nil:
		return a, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return a, fmt.Errorf("%s: %w; %s", s.where, err, whatHangs)
	}
	return a, fmt.Errorf("%s: %w", s.where, err)
}

// Check sends a request without a login: the helper has to accept the connection,
// and to know the service. PAM itself is not asked.
func (s *Store) Check(ctx context.Context) error {
	a, err := s.ask(ctx, "", "", netip.Addr{})
	switch {
	case err != nil:
		return fmt.Errorf("pam: %w (does the helper let this user in? --allow-user)", err)
	case a.Verdict != saslauthd.NO:
		return fmt.Errorf("pam: %s: %s", s.where, a.Text)
	case a != no(auth.Unknowable, emptyCredentials):
		return fmt.Errorf("pam: %s is no helper of postern's, but maybe saslauthd: then write kind = \"saslauthd\"", s.where)
	}
	return nil
}
