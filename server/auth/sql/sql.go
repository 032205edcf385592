// Package sql is the store of users for those who keep them in the table of a
// database: PostgreSQL, MySQL or MariaDB, or an SQLite file.
//
// The configuration has one query, which yields one row for a login:
//
//	select password, username from mailbox where username = {user}
//
// Its first column is the hash of the password, in any scheme that package hash
// knows. Behind it there are
//
//	username  the canonical name of the user, as the table has it
//	disabled  true for those who may not log in; they are told so, if their
//	          password is right (optional)
//
// and nothing else. No row is auth.NoSuchUser, several are a mistake in the
// configuration and therefore a temporary error. An empty or locked hash lets
// nobody in, and one of an unknown scheme is a temporary error: nobody can tell
// whether the password is right.
//
// The user is whom the row names, never what the client has written: "Alice",
// "alice" and "álice " find the same row in MySQL, two of them do with lower()
// anywhere, and alice of every domain does with a query that asks for {local}
// alone. Two spellings must not be two users with limits of their own, and nobody
// gets to choose whose alice she is.
//
// The login goes to the database apart from the statement (see [Query]), and
// DSNs that would make the driver put it in are refused.
//
// How long an answer takes does not tell whether the user exists: a name that is
// not there is compared with a hash of the kind that most logins have.
//
// Users whose hash is of the scheme SCRAM-SHA-256 can log in by SCRAM, too.
//
// The drivers are not registered here (of MySQL's, the type of its errors is
// used): the program does that. To add a database, write its constant and its
// placeholder. docs/sql/README.md has queries for the tables that people have.
package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"

	"postern/internal/fileperm"
	"postern/internal/text"
	"postern/server/auth"
	"postern/server/auth/hash"
)

// Kind is what the configuration calls this store, and its name in the log.
const Kind = "sql"

// A Store is a table of users. It may be used by many goroutines at once.
type Store struct {
	db        *sql.DB
	statement statement
	folds     bool   // see Driver.folds
	path      string // of SQLite
	maxIdle   int    // connections in the pool
	checker   *hash.Checker

	kinds  tally[string, string] // of hashes, with an example of each
	shapes tally[hash.ScramShape, hash.ScramShape]
}

var (
	_ auth.PasswordVerifier = (*Store)(nil)
	_ auth.KeyStore         = (*Store)(nil)
)

// New returns the store of cfg, which is valid. It fails if the DSN cannot be
// read. It connects to nobody yet: a database that is down does not keep us from
// starting.
func New(cfg Config, checker *hash.Checker) (*Store, error) {
	db, err := openDatabase(cfg)
	if err != nil {
		return nil, err
	}
	return &Store{
		db:        db,
		statement: cfg.Query.translate(cfg.Driver),
		folds:     cfg.Driver.folds(),
		path:      cfg.Path,
		maxIdle:   cfg.maxIdle(),
		checker:   checker,
	}, nil
}

// Close closes all connections. Nobody can log in afterwards.
func (s *Store) Close() error { return s.db.Close() }

// VerifyPassword implements auth.PasswordVerifier.
func (s *Store) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (auth.Identity, error) {
	if f := hopeless(login, password); f != nil {
		return auth.Identity{}, f
	}
	found, err := s.find(ctx, login)
	if err != nil {
		return auth.Identity{}, err
	}
	if found == nil || found.parsed.Locked() {
		decoy := s.kinds.commonest(hash.DefaultDecoy)
		if err := s.checker.Decoy(ctx, decoy, password, p.Known); err != nil {
			return auth.Identity{}, s.unavailable(err)
		}
		return auth.Identity{}, refusal(found)
	}
	ok, err := s.checker.Check(ctx, found.hash, password, p.Known)
	switch {
	case err != nil:
		return auth.Identity{}, s.unavailable(err)
	case !ok:
		return auth.Identity{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind}
	case found.disabled:
		return auth.Identity{}, &auth.Failure{Kind: auth.Disabled, Store: Kind, Reason: "the column disabled says so"}
	}
	return auth.Identity{User: found.username, Store: Kind}, nil
}

// ScramKeys implements auth.KeyStore.
func (s *Store) ScramKeys(ctx context.Context, login string) (auth.ScramKeys, error) {
	if !text.ValidName(login, maxName) {
		return auth.ScramKeys{}, refusal(nil)
	}
	found, err := s.find(ctx, login)
	if err != nil {
		return auth.ScramKeys{}, err
	}
	if found == nil || found.parsed.Locked() {
		return auth.ScramKeys{}, refusal(found)
	}
	keys, ok := found.parsed.ScramKeys()
	switch {
	case found.disabled: // whose password has not been seen yet
		return auth.ScramKeys{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "the account is disabled"}
	case !ok:
		return auth.ScramKeys{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind,
			Reason: "has no SCRAM keys but a hash of another scheme; store one of: postern passwd --scheme scram-sha-256"}
	}
	return auth.ScramKeys{ScramKeys: keys, User: found.username, Store: Kind}, nil
}

// ScramDecoy implements auth.KeyStore. Logins of which the database is asked the
// same are one.
func (s *Store) ScramDecoy(login string) auth.ScramDecoy {
	if s.folds {
		login = strings.ToLower(strings.TrimRight(login, " "))
	}
	asked := fmt.Sprintf("%q", s.statement.arguments(login))
	return auth.ScramDecoy{Login: asked, ScramShape: s.shapes.commonest(hash.DefaultScramShape())}
}

// A record is a row with its hash read.
type record struct {
	row
	parsed hash.Hash
}

// find returns nil if there is no such user. An error is temporary.
func (s *Store) find(ctx context.Context, login string) (*record, error) {
	found, err := s.lookup(ctx, login)
	if err != nil && s.cannotHold(ctx, login, err) {
		return nil, nil
	}
	if _, mistaken := errors.AsType[mistake](err); err != nil && !mistaken && ctx.Err() == nil {
		s.dropIdle()
		found, err = s.lookup(ctx, login)
	}
	if err != nil {
		return nil, s.unavailable(err)
	}
	if found == nil {
		return nil, nil
	}
	h, err := hash.Parse(found.hash)
	if err != nil {
		return nil, s.unavailable(fmt.Errorf("the hash of %q: %w", found.username, err))
	}
	s.remember(h, found.hash)
	return &record{*found, h}, nil
}

// dropIdle closes the connections in the pool: when the server was restarted they
// have all died, and not every driver notices before it asks.
func (s *Store) dropIdle() {
	s.db.SetMaxIdleConns(-1)
	s.db.SetMaxIdleConns(s.maxIdle)
}

// remember counts what the users have who log in.
func (s *Store) remember(h hash.Hash, stored string) {
	if h.Locked() {
		return
	}
	s.kinds.saw(h.Kind(), stored)
	if keys, ok := h.ScramKeys(); ok {
		s.shapes.saw(keys.Shape(), keys.Shape())
	}
}

// hopeless refuses what need not reach a database. The mechanisms have refused
// most of it already.
func hopeless(login, password string) *auth.Failure {
	switch {
	case password == "":
		return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "empty password"}
	case !text.ValidName(login, maxName):
		return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: "not a name"}
	}
	return nil
}

// refusal is the answer for a user without a password. A locked one is found, so
// that no other store is asked for the same name.
func refusal(found *record) *auth.Failure {
	if found == nil {
		return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind}
	}
	return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "the account has no password"}
}

func (s *Store) unavailable(err error) error {
	return &auth.Unavailable{Store: Kind, Err: s.explain(err)}
}

// explain says more about a database that cannot be opened than its driver.
func (s *Store) explain(err error) error {
	if s.path == "" {
		return fileperm.ExplainDial(err)
	}
	f, openErr := os.Open(s.path)
	if openErr != nil {
		return fmt.Errorf("%w (%w)", openErr, err)
	}
	f.Close()
	return err
}

// checkLogin is nobody's: names of users have no blanks.
const checkLogin = "postern check"

// Check asks the query for a name that is nobody's, and says what is wrong and
// what to do about it.
func (s *Store) Check(ctx context.Context) error {
	found, err := s.lookup(ctx, checkLogin)
	switch {
	case err != nil:
		return s.explain(err)
	case found != nil:
		return fmt.Errorf("the query yields a row for %q, who does not exist; let it compare the name with {user}", checkLogin)
	}
	return nil
}
