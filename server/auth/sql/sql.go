// Package sql authenticates users with a table of a database: PostgreSQL, MySQL or MariaDB,
// or an SQLite file. Its [Store] has the abilities [auth.PasswordVerifier] and, for hashes of
// the scheme SCRAM-SHA-256, [auth.KeyStore].
//
// The configuration has one query, which returns one row for a login, or several if its key
// rows allows that:
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
// and no others. No row is [auth.NoSuchUser]. More rows than allowed, and rows of different
// users, are a mistake in the configuration, and therefore a temporary error. An empty or locked
// hash refuses every password. A hash of an unknown scheme is a temporary error, since the
// password cannot be checked, unless the hash of another row matches. Blanks at the ends of a
// hash, as a column of the type CHAR has them, are ignored.
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
// compared with a hash of the most common kind, or of the kind in the configuration. With
// several rows, every refused login costs as many hashes as there may be rows, so that the time
// does not depend on their number either. A table cannot be asked for all its users, so those that have been looked up are counted, each once
// ([hash.Census]).
//
// A table that ignores case finds one row for many spellings of a login. If SCRAM gave the keys
// of the row to all of them, two spellings would have the same salt only if the user exists. So
// SCRAM gives the keys only for the spelling of the table. Other spellings are unknown to it,
// and each has its own decoy, whether or not there is such a user. If logins are folded, all
// spellings are one login, with one decoy, and the table's spelling is folded as well. Several rows
// with keys would need several salts in one message, so such users have none.
//
// Bounds: 1,024 bytes for a login and for the name of a user, the caller's ctx for a query, and
// those of package sqldb. One row more than there may be is read, and no further one.
//
// Left out: changes of passwords. docs/sql/README.md has queries for the tables of widespread
// programs.
package sql

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"postern/internal/semaphore"
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
	db      *sqldb.DB[[]row]
	rows    int // at most
	fold    auth.Fold
	checker *hash.Checker
	seen    *hash.Census
	decoys  hash.Kind // of the configuration; empty: the most common one of seen

	ignoresDomain bool // the query finds one user for many domains
}

var (
	_ auth.PasswordVerifier = (*Store)(nil)
	_ auth.KeyStore         = (*Store)(nil)
)

// New returns a store. cfg is valid. Logins have been folded with fold. It returns an error if the DSN cannot be read or parsed.
// It does not connect, so it succeeds while the database is down.
func New(cfg Config, fold auth.Fold, checker *hash.Checker) (*Store, error) {
	read := func(r sqldb.Result) ([]row, error) { return readRows(r, cfg.Rows) }
	db, err := sqldb.Open(cfg.Config, cfg.Query.Query, cfg.Rows+1, read)
	if err != nil {
		return nil, err
	}
	table := fmt.Sprintf("%s %s %s", cfg.Driver, cfg.Location(), cfg.Query)
	return &Store{
		db: db, rows: cfg.Rows, fold: fold, checker: checker, seen: checker.Census(table), decoys: cfg.UnknownUserHash, ignoresDomain: cfg.Query.IgnoresDomain(),
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
	return s.verify(ctx, found, password, p.Turn(login))
}

// verify compares the password with the hashes of a user, which is nil for an unknown one. Each
// hash waits for its own slot.
func (s *Store) verify(ctx context.Context, found *user, password string, turn semaphore.Turn) (auth.Identity, error) {
	computed, disabled := 0, false
	for _, r := range found.inOrder(func(h string) bool { return s.checker.Remembers(h, password) }) {
		ok, err := s.checker.Check(ctx, r.hash, password, turn)
		switch {
		case err != nil:
			return auth.Identity{}, unavailable(err)
		case ok && !r.disabled:
			return auth.Identity{User: found.name, Store: Kind}, nil
		}
		disabled = disabled || ok
		computed++
	}
	switch {
	case disabled:
		return auth.Identity{}, &auth.Failure{Kind: auth.Disabled, Store: Kind, Reason: "the column disabled is true"}
	case found != nil && found.broken != nil:
		return auth.Identity{}, unavailable(found.broken)
	}
	for ; computed < s.rows; computed++ {
		if err := s.checker.Decoy(ctx, s.decoy().Sample(), password, turn); err != nil {
			return auth.Identity{}, unavailable(err)
		}
	}
	return auth.Identity{}, refusal(found)
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
	keyed := found.keyed()
	switch {
	case len(keyed) == 0 && found != nil && found.broken != nil:
		return auth.ScramKeys{}, unavailable(found.broken)
	case found == nil || len(found.rows) == 0:
		return auth.ScramKeys{}, refusal(found)
	}
	r := append(keyed, found.rows...)[0]
	switch spelling := s.fold.Login(cmp.Or(r.login, r.username)); {
	case s.db.SameRows(login) != s.db.SameRows(spelling):
		return auth.ScramKeys{}, &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: fmt.Sprintf(
			"SCRAM needs the login as it is spelled in the column %s or %s, %q; a login by password may be spelled differently",
			columnLogin, columnUsername, spelling)}
	case len(keyed) == 0:
		return auth.ScramKeys{}, scramRefusal("the hash is of another scheme, without SCRAM keys; store one of postern passwd --scheme scram-sha-256")
	case len(keyed) > 1:
		return auth.ScramKeys{}, scramRefusal(fmt.Sprintf("%d rows have SCRAM keys, and a login by SCRAM can use one only; keep one of them", len(keyed)))
	case r.disabled: // not auth.Disabled, since the password was not checked
		return auth.ScramKeys{}, scramRefusal("the account is disabled")
	}
	keys, _ := r.parsed.ScramKeys()
	return auth.ScramKeys{ScramKeys: keys, User: found.name, Store: Kind}, nil
}

func scramRefusal(reason string) *auth.Failure {
	return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: reason}
}

// ScramDecoy implements auth.KeyStore. It is the same for logins that lead to the same
// query.
func (s *Store) ScramDecoy(login string) auth.ScramDecoy {
	return auth.ScramDecoy{Login: s.db.SameRows(login), ScramShape: s.decoys.Shape(s.seen.Shape())}
}

// decoy returns the kind of the hash that is computed for a login without one.
func (s *Store) decoy() hash.Kind { return cmp.Or(s.decoys, s.seen.Kind()) }

// A user is what the rows of a login have.
type user struct {
	name   string      // canonical
	rows   []hashedRow // with a hash that is not locked
	broken error       // the hash of a further row cannot be checked
}

// A hashedRow is a row with its parsed hash.
type hashedRow struct {
	row
	parsed hash.Hash
}

// inOrder returns the rows whose hash is known to match first, so that a login with the last of
// several passwords costs no more than one with the first.
func (u *user) inOrder(known func(hash string) bool) []hashedRow {
	if u == nil {
		return nil
	}
	for i, r := range u.rows {
		if i > 0 && known(r.hash) {
			return slices.Concat(u.rows[i:], u.rows[:i])
		}
	}
	return u.rows
}

// keyed returns the rows with SCRAM keys.
func (u *user) keyed() (rows []hashedRow) {
	if u == nil {
		return nil
	}
	for _, r := range u.rows {
		if _, ok := r.parsed.ScramKeys(); ok {
			rows = append(rows, r)
		}
	}
	return rows
}

// find returns the user of a login, or nil if there is none. Every error is temporary.
func (s *Store) find(ctx context.Context, login string) (*user, error) {
	rows, err := s.db.Find(ctx, login)
	if err != nil {
		return nil, unavailable(err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	u := &user{name: rows[0].username}
	for _, r := range rows {
		switch h, err := hash.Parse(r.hash); {
		case err != nil:
			u.broken = fmt.Errorf("the hash of %q: %w", u.name, err)
		case !h.Locked():
			u.rows = append(u.rows, hashedRow{r, h})
		}
	}
	if len(u.rows) > 0 {
		s.seen.Add(u.name, u.rows[0].parsed)
	}
	return u, nil
}

// refusal returns the failure for an unknown user or one with a wrong password. A locked account
// is BadPassword, so that other stores are not asked for the same name.
func refusal(found *user) *auth.Failure {
	switch {
	case found == nil:
		return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind}
	case len(found.rows) == 0:
		return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "the account has no password"}
	}
	return &auth.Failure{Kind: auth.BadPassword, Store: Kind}
}

func unavailable(err error) error { return &auth.Unavailable{Store: Kind, Err: err} }

// Check runs the query for a login that does not exist. The error has the remedy.
func (s *Store) Check(ctx context.Context) error {
	found, err := s.db.Check(ctx)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("the query returns a row for %q, a user that does not exist; compare the name with {user}", sqldb.AbsentKey)
	}
	return err
}
