// Package userfile authenticates users with a file: one that Apache's htpasswd or "postern
// passwd" wrote, or a passwd-file of Dovecot. Its [Store] has the abilities
// [auth.PasswordVerifier] and [auth.KeyStore].
//
//	user:hash[:anything]
//	user|hash[|anything]   as docker-mailserver writes it
//
// Empty lines and lines that begin with "#" are ignored. Package hash lists the schemes of
// hashes. An invalid line is logged with its number and skipped; the others are used. If a
// name occurs twice, its first line is used. No password matches an empty or locked hash. If
// the hash of a user cannot be checked, as it is of an unknown scheme or too costly, every login
// of the user is a temporary error.
//
// Names are compared with their domain, and as the fold of the configuration says, which is
// applied to both sides. The name in the file, as it is spelled there, is the canonical name that
// sender restrictions use. If two different names in the file are one login after folding,
// that login is a temporary error: it never has two passwords, nor one that depends on the order
// of lines.
//
// The file is read again when it changes, see [Store.Reload]. If it cannot be read, every
// login is a temporary error. The old content is not used then, since the file may have been
// removed to lock out a user. If other users of the machine can change it, or if it is no regular
// file, the last good content stays in use: package fileperm has the rules.
//
// The response time does not reveal which users exist: the password of an unknown user is
// compared with a hash of the most common kind, or of the kind in the configuration. In a file with hashes of very different cost,
// users with less common kinds can be recognised, and by SCRAM users whose keys have a less
// common iteration count.
//
// Users whose hash is of the scheme SCRAM-SHA-256 can log in by SCRAM, too. Others fail there
// like unknown users, with every password; see [Store.WithoutScramKeys].
//
// Bounds: a file of 64 MiB with a million users, in lines of 4 KiB, is read at most once a
// second, by one of the logins.
//
// Left out: the fields of Dovecot after the hash, except those that lock an account (parse.go),
// and domains in separate files.
package userfile

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"postern/internal/access"
	"postern/internal/fileperm"
	"postern/server/auth"
	"postern/server/auth/hash"
)

// Kind is the kind of this store in the configuration, and its default name in the log.
const Kind = "userfile"

// Config is a table [[auth.stores]] of kind "userfile".
type Config struct {
	// Path is the absolute path of the file.
	Path string `toml:"path"`

	// UnknownUserHash is the kind of the hash with which the password of an unknown user is
	// compared. Without it that is the most common kind in the file.
	UnknownUserHash hash.Kind `toml:"unknown_user_hash"`
}

// Defaults returns the values of keys that the table leaves out.
func Defaults() Config { return Config{Path: "/etc/postern/users"} }

// Validate implements auth.BackendConfig.
func (c *Config) Validate(bad func(key, why string)) {
	if !filepath.IsAbs(c.Path) {
		bad("path", `must be an absolute path such as "/etc/postern/users"; the service does not run in your current directory`)
	}
}

// Open implements auth.BackendConfig. It reads the file.
func (c *Config) Open(env *auth.Env) (auth.Backend, error) {
	return New(*c, env.Fold, env.Checker, env.Events)
}

// Location implements auth.BackendConfig.
func (c *Config) Location() string { return c.Path }

// Access implements auth.BackendConfig.
func (c *Config) Access(key func(string) string, list *access.List) {
	list.ReadAs(fileperm.Private, key("path"), c.Path)
}

// A Store verifies passwords with a user file. It may be used by many goroutines at once. It
// has no goroutines and no open file between calls, so it has no Close.
type Store struct {
	path    string
	fold    auth.Fold
	checker *hash.Checker
	events  auth.Events
	decoys  hash.Kind // of the configuration; empty: the most common one of the file
	now     func() time.Time

	content atomic.Pointer[content] // never nil
	watch   sync.Mutex              // held by the goroutine that checks the file
	state   fileState               // guarded by watch
	refused string                  // the last refusal that was reported; guarded by watch
}

// content is the result of the last read: a table or an error.
type content struct {
	table *table
	err   error
}

var (
	_ auth.PasswordVerifier = (*Store)(nil)
	_ auth.KeyStore         = (*Store)(nil)
)

// New reads a user file. It returns an error if the file cannot be read, but not for an
// invalid line, which concerns one user only. Logins have been folded with fold.
func New(cfg Config, fold auth.Fold, checker *hash.Checker, events auth.Events) (*Store, error) {
	s := &Store{path: cfg.Path, fold: fold, checker: checker, events: events, decoys: cfg.UnknownUserHash, now: time.Now}
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
	found, err := users.find(login)
	switch {
	case err != nil:
		return auth.Identity{}, s.unusable(err)
	case found.stored == "":
		if err := s.checker.Decoy(ctx, users.decoy(s.decoys).Sample(), password, p.Turn(login)); err != nil {
			return auth.Identity{}, unavailable(err)
		}
		return auth.Identity{}, refusal(found)
	}
	ok, err := s.checker.Check(ctx, found.stored, password, p.Turn(login))
	if err != nil {
		return auth.Identity{}, unavailable(err)
	}
	if !ok {
		return auth.Identity{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind}
	}
	return auth.Identity{User: found.name, Store: Kind}, nil
}

// refusal returns the failure for an unknown user or one without a password. A locked account
// is BadPassword, so that other stores are not asked for the same name.
func refusal(found account) *auth.Failure {
	if found.name != "" {
		return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "the account has no password"}
	}
	return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind}
}

// ScramKeys implements auth.KeyStore.
func (s *Store) ScramKeys(_ context.Context, _ *auth.Peer, login string) (auth.ScramKeys, error) {
	users, err := s.users()
	if err != nil {
		return auth.ScramKeys{}, unavailable(err)
	}
	found, err := users.find(login)
	if err != nil {
		return auth.ScramKeys{}, s.unusable(err)
	}
	h, err := hash.Parse(cmp.Or(found.stored, users.decoy(s.decoys).Sample())) // the same work for unknown users
	if err != nil {
		return auth.ScramKeys{}, unavailable(err)
	}
	keys, ok := h.ScramKeys()
	switch {
	case found.stored == "":
		return auth.ScramKeys{}, refusal(found)
	case !ok:
		return auth.ScramKeys{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind,
			Reason: "the hash is of another scheme, without SCRAM keys; set the password again with --scheme scram-sha-256"}
	}
	return auth.ScramKeys{ScramKeys: keys, User: found.name, Store: Kind}, nil
}

// ScramDecoy implements auth.KeyStore. The login has been folded, so all spellings have one
// decoy, as they have the keys of one user.
func (s *Store) ScramDecoy(login string) auth.ScramDecoy {
	shape := hash.DefaultScramShape()
	if users := s.content.Load().table; users != nil {
		shape = users.shape
	}
	return auth.ScramDecoy{Login: login, ScramShape: s.decoys.Shape(shape)}
}

// WithoutScramKeys returns the users that can log in by PLAIN and LOGIN, but not by SCRAM, in
// the order of the file. SCRAM should not be offered while there are any. The caller must not
// change the slice.
func (s *Store) WithoutScramKeys() []string {
	users, err := s.users()
	if err != nil {
		return nil
	}
	return users.noScram
}

// WithTooManyIterations returns the users whose SCRAM keys have more iterations than
// [hash.CyrusMaxIterations], in the order of the file. Clients that use Cyrus SASL cannot log
// in by SCRAM as these users. The caller must not change the slice.
func (s *Store) WithTooManyIterations() []string {
	users, err := s.users()
	if err != nil {
		return nil
	}
	return users.tooMany
}

// unusable returns the error for a user whose password cannot be checked.
func (s *Store) unusable(err error) error {
	return unavailable(fmt.Errorf("user file %s: %w", s.path, err))
}

func unavailable(err error) error { return &auth.Unavailable{Store: Kind, Err: err} }

// The file is checked at a login, at most once a second. Notifications of the kernel would be
// faster and less reliable: network file systems have none, and a symbolic link of the path
// can be replaced in a folder that is not watched.
const (
	checkInterval = time.Second

	// A file that is being written in place may be incomplete; htpasswd empties it
	// first. So it is read when it has not changed for quietTime, or after maxWait. A
	// file that was renamed to the path is complete, and is read at once.
	quietTime = time.Second
	maxWait   = 10 * time.Second

	// Two changes within the resolution of the file system's times may have the same
	// stamp. So a file that had just been changed when it was read is read again.
	granularity = 2 * time.Second
)

// A fileState is the state of the file at the last check.
type fileState struct {
	checked time.Time
	stamp   stamp // of the content in use
	settled bool  // every later content has another stamp
	sum     [sha256.Size]byte
	waiting time.Time // since when a change in place waits to be read
}

// Reload reads the file now. Without it a change is noticed at a login, within a second. If
// the file cannot be read, all logins are temporary errors until it can. An error that is a
// [fileperm.Refused] means that the last good content stays in use, if there is any.
func (s *Store) Reload(context.Context) error {
	s.watch.Lock()
	defer s.watch.Unlock()
	return s.read(s.now())
}

// users returns the current table. One login checks the file, while others use the current
// table.
func (s *Store) users() (*table, error) {
	if s.watch.TryLock() {
		s.refresh(s.now())
		s.watch.Unlock()
	}
	c := s.content.Load()
	return c.table, c.err
}

// refresh reads the file if it has changed.
func (s *Store) refresh(now time.Time) {
	if since := now.Sub(s.state.checked); since >= 0 && since < checkInterval {
		return
	}
	s.state.checked = now
	var raw unix.Stat_t
	if err := unix.Stat(s.path, &raw); err != nil {
		s.state.stamp = stamp{}
		s.fail(explain(s.path, &fs.PathError{Op: "stat", Path: s.path, Err: err}))
		return
	}
	current := newStamp(&raw)
	if current == s.state.stamp && s.state.settled || s.incomplete(current, now) {
		return
	}
	_ = s.read(now) // which reports the error
}

// incomplete reports whether the file may be being written in place.
func (s *Store) incomplete(current stamp, now time.Time) bool {
	age := now.Sub(current.changed)
	known := s.state.stamp
	sameFile := current.device == known.device && current.inode == known.inode
	if !sameFile || current == known || age < 0 || age >= quietTime {
		s.state.waiting = time.Time{}
		return false
	}
	if s.state.waiting.IsZero() {
		s.state.waiting = now
	}
	return now.Sub(s.state.waiting) < maxWait
}

// read reads the file, and replaces the table if the content has changed.
func (s *Store) read(now time.Time) error {
	text, current, err := readFile(s.path, openChecked)
	if err != nil {
		s.state.stamp = stamp{} // read again at the next check: permissions of folders are in no stamp
		s.keepOrFail(err)
		return err
	}
	s.refused = ""
	sum := sha256.Sum256(text)
	same := sum == s.state.sum && s.content.Load().table != nil
	s.state = fileState{checked: now, stamp: current, sum: sum}
	s.state.settled = now.Sub(current.changed) > granularity
	if same {
		return nil
	}
	users, found, err := parse(text, s.fold)
	if err != nil {
		err = fmt.Errorf("user file %s: %w", s.path, err)
		s.fail(err)
		return err
	}
	s.content.Store(&content{table: users})
	s.report(users, found)
	return nil
}

// keepOrFail keeps the table if the file is refused because of its type or its permissions. The
// event is reported once for each different error.
func (s *Store) keepOrFail(err error) {
	_, refused := errors.AsType[fileperm.Refused](err)
	if !refused || s.content.Load().table == nil {
		s.fail(err)
		return
	}
	if text := err.Error(); s.refused != text {
		s.refused = text
		s.events.UserFileRefused(s.path, err)
	}
}

// fail removes the table, so that all logins are temporary errors. The event is reported once
// for each different error.
func (s *Store) fail(err error) {
	before := s.content.Load()
	s.content.Store(&content{err: err})
	if before.table != nil || before.err != nil && before.err.Error() != err.Error() {
		s.events.UserFileUnreadable(s.path, err)
	}
}

// maxReported is how many invalid lines are reported one by one.
const maxReported = 20

func (s *Store) report(users *table, found problems) {
	for _, p := range found[:min(len(found), maxReported)] {
		s.events.UserFileLineSkipped(s.path, p.line, p.why)
	}
	if more := len(found) - maxReported; more > 0 {
		s.events.UserFileMoreLinesSkipped(s.path, more)
	}
	s.events.UserFileRead(s.path, len(users.accounts))
}
