// Package userfile is the store of users for those who have a file of them: one
// that Apache's htpasswd or "postern passwd" wrote, or a passwd-file of Dovecot.
//
//	user:hash[:anything]
//
// Lines that are empty or begin with "#" are skipped. Package hash lists the
// known hashes. A line that makes no sense is logged with its number, and
// skipped; the others go on working. If a name comes twice, its first line
// counts. No password matches an empty or locked hash.
//
// Names are compared as they are written, upper and lower case, with or without
// a domain: the name in the file is the canonical name that the rules about
// senders see, and two users must never share one.
//
// The file is read again when it changes, see [Store.Reload]. If it cannot be
// read, every login gets a temporary error, and the old content is not used, since
// the file may have been removed to lock a user out.
//
// The time of an answer does not show whether the user exists: a name that
// is not there is compared with a hash of the kind that most users have. In a
// file of hashes of very different cost, users with the rarer kinds can be
// recognised, and by SCRAM users whose keys have another iteration count than most.
//
// Users whose hash is of the scheme SCRAM-SHA-256 can log in by SCRAM, too. All
// others fail there as unknown users do, whatever their password; see
// [Store.WithoutScramKeys].
package userfile

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"postern/internal/access"
	"postern/server/auth"
	"postern/server/auth/hash"
)

// Kind is what the configuration calls this store, and its name in the log.
const Kind = "userfile"

// Config is a table [[auth.stores]] of kind "userfile".
type Config struct {
	// Path of the file; absolute.
	Path string `toml:"path"`
}

// Defaults returns the values of keys that the table leaves out.
func Defaults() Config { return Config{Path: "/etc/postern/users"} }

// Validate reports each value that makes no sense, with its key relative to the
// table.
func (c *Config) Validate(bad func(key, why string)) {
	if !filepath.IsAbs(c.Path) {
		bad("path", `must be an absolute path such as "/etc/postern/users"; the service does not run in the folder that you stand in`)
	}
}

// Open implements auth.BackendConfig. It reads the file.
func (c *Config) Open(env *auth.Env) (auth.Backend, error) { return New(*c, env.Checker, env.Events) }

// Location implements auth.BackendConfig.
func (c *Config) Location() string { return c.Path }

// Access implements auth.BackendConfig.
func (c *Config) Access(key func(string) string, list *access.List) {
	list.Read(key("path"), c.Path)
}

// A Store is an open user file. It may be used by many goroutines at once. It
// starts none and holds no file open, so there is nothing to close.
type Store struct {
	path    string
	checker *hash.Checker
	events  auth.Events
	now     func() time.Time

	content atomic.Pointer[content] // never nil
	watch   sync.Mutex              // held by the one who looks at the file
	seen    sighting                // guarded by watch
}

// content is what lookups are answered from: a table, or why there is none.
type content struct {
	table *table
	err   error
}

// New opens a user file. It fails if the file cannot be read; a line that cannot
// only costs that user.
func New(cfg Config, checker *hash.Checker, events auth.Events) (*Store, error) {
	s := &Store{path: cfg.Path, checker: checker, events: events, now: time.Now}
	s.content.Store(&content{})
	if err := s.Reload(context.Background()); err != nil {
		return nil, err
	}
	return s, nil
}

// VerifyPassword implements auth.PasswordVerifier.
func (s *Store) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (auth.Identity, error) {
	users, err := s.users()
	if err != nil {
		return auth.Identity{}, unavailable(err)
	}
	stored, found := users.hashes[login]
	if stored == "" {
		if err := s.checker.Decoy(ctx, users.decoy, password, p.Known); err != nil {
			return auth.Identity{}, unavailable(err)
		}
		return auth.Identity{}, refusal(found)
	}
	ok, err := s.checker.Check(ctx, stored, password, p.Known)
	if err != nil {
		return auth.Identity{}, unavailable(err)
	}
	if !ok {
		return auth.Identity{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind}
	}
	return auth.Identity{User: login, Store: Kind}, nil
}

// refusal is the answer for a name without a hash. A locked user is found, so
// that no other store is asked for the same name.
func refusal(found bool) *auth.Failure {
	if found {
		return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "the account has no password"}
	}
	return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind}
}

// ScramKeys implements auth.KeyStore.
func (s *Store) ScramKeys(_ context.Context, login string) (auth.ScramKeys, error) {
	users, err := s.users()
	if err != nil {
		return auth.ScramKeys{}, unavailable(err)
	}
	stored, found := users.hashes[login]
	h, err := hash.Parse(cmp.Or(stored, users.decoy)) // the same work, whether found or not
	if err != nil {
		return auth.ScramKeys{}, unavailable(err)
	}
	keys, ok := h.ScramKeys()
	switch {
	case stored == "":
		return auth.ScramKeys{}, refusal(found)
	case !ok:
		return auth.ScramKeys{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind,
			Reason: "has no SCRAM keys but a hash of another scheme; set the password again with --scheme scram-sha-256"}
	}
	return auth.ScramKeys{ScramKeys: keys, User: login, Store: Kind}, nil
}

// ScramDecoy implements auth.KeyStore.
func (s *Store) ScramDecoy(login string) auth.ScramDecoy {
	shape := hash.DefaultScramShape()
	if users := s.content.Load().table; users != nil {
		shape = users.scram
	}
	return auth.ScramDecoy{Login: login, ScramShape: shape}
}

// WithoutScramKeys returns the users who can log in by PLAIN and LOGIN and not by
// SCRAM, in the order of the file. As long as there are any, SCRAM should not be
// offered. The caller does not change them.
func (s *Store) WithoutScramKeys() []string {
	users, err := s.users()
	if err != nil {
		return nil
	}
	return users.noScram
}

// WithTooManyIterations returns the users whose SCRAM keys have more iterations
// than [hash.CyrusMaxIterations], in the order of the file: clients that use Cyrus
// SASL cannot log in by SCRAM as them. The caller must not change the slice.
func (s *Store) WithTooManyIterations() []string {
	users, err := s.users()
	if err != nil {
		return nil
	}
	return users.tooMany
}

func unavailable(err error) error { return &auth.Unavailable{Store: Kind, Err: err} }

// Check reads the file once more, apart from what is being served, and returns
// what is wrong with it.
func (s *Store) Check(context.Context) error {
	text, _, err := readFile(s.path)
	if err != nil {
		return err
	}
	users, problems, err := parse(text)
	switch {
	case err != nil:
		return fmt.Errorf("user file %s: %w", s.path, err)
	case len(problems) > 0:
		return fmt.Errorf("user file %s: %s", s.path, problems.summary())
	case len(users.hashes) == 0:
		return fmt.Errorf("user file %s: holds no user; add one with: postern passwd %s NAME", s.path, s.path)
	}
	return nil
}
