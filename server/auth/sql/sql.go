// Package sql authenticates users with a table of a database: PostgreSQL, MySQL or MariaDB,
// or an SQLite file. Its [Store] has the abilities [auth.PasswordVerifier] and, for hashes of
// the scheme SCRAM-SHA-256, [auth.KeyStore].
//
// The configuration has one query, which returns one row for a login:
//
//	select password, username from mailbox where username = {user}
//
// The first column is the hash of the password, in any scheme of package hash. After it there
// are
//
//	username  the canonical name of the user, as in the table
//	disabled  true for users that may not log in (optional); it is applied after the
//	          password was found right
//	login     the login as the table spells it, for SCRAM (optional; otherwise username)
//
// and no others. No row is [auth.NoSuchUser]. Several rows are a mistake in the configuration,
// and therefore a temporary error. An empty or locked hash refuses every password. A hash of
// an unknown scheme is a temporary error, since the password cannot be checked.
//
// The canonical user is taken from the row, never from the login: "Alice", "alice" and
// "álice " find the same row in MySQL, "Alice" and "alice" do with lower() in any database,
// and alice of every domain does with a query that only uses {local}. Otherwise each spelling
// would be a user with separate limits, and a user could choose the domain of her name.
//
// Package sqldb asks the database. The login is a parameter of the statement and never part
// of its text.
//
// The response time does not reveal which users exist: the password of an unknown user is
// compared with a hash of the most common kind, or of the kind in the configuration. A table
// cannot be asked for all its users, so those that have been looked up are counted, each once
// ([hash.Census]).
//
// A table that ignores case finds one row for many spellings of a login. If SCRAM gave the keys
// of the row to all of them, two spellings would have the same salt only if the user exists. So
// SCRAM gives the keys only for the spelling of the table. Other spellings are unknown to it,
// and each has its own decoy, whether or not there is such a user.
//
// Bounds: 1,024 bytes for a login and for the name of a user, the caller's ctx for a query, and
// those of package sqldb. A row after the second is not read.
//
// Left out: changes of passwords. docs/sql/README.md has queries for the tables of widespread
// programs.
package sql

import (
	"cmp"
	"context"
	"fmt"

	"postern/internal/sqldb"
	"postern/internal/text"
	"postern/server/auth"
	"postern/server/auth/hash"
)

// Kind is the kind of this store in the configuration, and its default name in the log.
const Kind = "sql"

// A Store verifies passwords with a table. It may be used by many goroutines at once, and
// must be closed.
type Store struct {
	db      *sqldb.DB[*row]
	checker *hash.Checker
	seen    *hash.Census
	decoys  hash.Kind // of the configuration; empty: the most common one of seen

	ignoresDomain bool // the query finds one user for many domains
}

var (
	_ auth.PasswordVerifier = (*Store)(nil)
	_ auth.KeyStore         = (*Store)(nil)
)

// New returns a store. cfg is valid. It returns an error if the DSN cannot be read or parsed.
// It does not connect, so it succeeds while the database is down.
func New(cfg Config, checker *hash.Checker) (*Store, error) {
	db, err := sqldb.Open(cfg.Config, cfg.Query.Query, maxRows, readRow)
	if err != nil {
		return nil, err
	}
	table := fmt.Sprintf("%s %s %s", cfg.Driver, cfg.Location(), cfg.Query)
	return &Store{
		db: db, checker: checker, seen: checker.Census(table), decoys: cfg.UnknownUserHash, ignoresDomain: cfg.Query.IgnoresDomain(),
	}, nil
}

// IgnoresDomain reports whether a user may log in with any domain; see [auth.Backend].
func (s *Store) IgnoresDomain() bool { return s.ignoresDomain }

// Close closes all connections. All logins fail afterwards.
func (s *Store) Close() error { return s.db.Close() }

// VerifyPassword implements auth.PasswordVerifier.
func (s *Store) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (auth.Identity, error) {
	switch {
	case password == "":
		return auth.Identity{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "empty password"}
	case !text.ValidName(login, maxName):
		return auth.Identity{}, &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: "not a valid name"}
	}
	found, err := s.find(ctx, login)
	if err != nil {
		return auth.Identity{}, err
	}
	if found == nil || found.parsed.Locked() {
		if err := s.checker.Decoy(ctx, s.decoy().Sample(), password, p.Turn(login)); err != nil {
			return auth.Identity{}, unavailable(err)
		}
		return auth.Identity{}, refusal(found)
	}
	ok, err := s.checker.Check(ctx, found.hash, password, p.Turn(login))
	switch {
	case err != nil:
		return auth.Identity{}, unavailable(err)
	case !ok:
		return auth.Identity{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind}
	case found.disabled:
		return auth.Identity{}, &auth.Failure{Kind: auth.Disabled, Store: Kind, Reason: "the column disabled is true"}
	}
	return auth.Identity{User: found.username, Store: Kind}, nil
}

// ScramKeys implements auth.KeyStore.
func (s *Store) ScramKeys(ctx context.Context, _ *auth.Peer, login string) (auth.ScramKeys, error) {
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
	switch spelling := cmp.Or(found.login, found.username); {
	case s.db.SameRows(login) != s.db.SameRows(spelling):
		return auth.ScramKeys{}, &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: fmt.Sprintf(
			"SCRAM needs the login as it is spelled in the column %s or %s, %q; a login by password may be spelled differently",
			columnLogin, columnUsername, spelling)}
	case found.disabled: // not auth.Disabled, since the password was not checked
		return auth.ScramKeys{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "the account is disabled"}
	case !ok:
		return auth.ScramKeys{}, &auth.Failure{Kind: auth.BadPassword, Store: Kind,
			Reason: "the hash is of another scheme, without SCRAM keys; store one of postern passwd --scheme scram-sha-256"}
	}
	return auth.ScramKeys{ScramKeys: keys, User: found.username, Store: Kind}, nil
}

// ScramDecoy implements auth.KeyStore. It is the same for logins that lead to the same
// query.
func (s *Store) ScramDecoy(login string) auth.ScramDecoy {
	return auth.ScramDecoy{Login: s.db.SameRows(login), ScramShape: s.decoys.Shape(s.seen.Shape())}
}

// decoy returns the kind of the hash that is computed for a login without one.
func (s *Store) decoy() hash.Kind { return cmp.Or(s.decoys, s.seen.Kind()) }

// A record is a row with its parsed hash.
type record struct {
	row
	parsed hash.Hash
}

// find returns the record of a login, or nil if there is none. Every error is temporary.
func (s *Store) find(ctx context.Context, login string) (*record, error) {
	found, err := s.db.Find(ctx, login)
	if err != nil {
		return nil, unavailable(err)
	}
	if found == nil {
		return nil, nil
	}
	h, err := hash.Parse(found.hash)
	if err != nil {
		return nil, unavailable(fmt.Errorf("the hash of %q: %w", found.username, err))
	}
	s.seen.Add(found.username, h)
	return &record{*found, h}, nil
}

// refusal returns the failure for an unknown user or one without a password. A locked account
// is BadPassword, so that other stores are not asked for the same name.
func refusal(found *record) *auth.Failure {
	if found == nil {
		return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind}
	}
	return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "the account has no password"}
}

func unavailable(err error) error { return &auth.Unavailable{Store: Kind, Err: err} }

// Check runs the query for a login that does not exist. The error has the remedy.
func (s *Store) Check(ctx context.Context) error {
	found, err := s.db.Check(ctx)
	if err == nil && found != nil {
		err = fmt.Errorf("the query returns a row for %q, a user that does not exist; compare the name with {user}", sqldb.AbsentKey)
	}
	return err
}
