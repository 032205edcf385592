package sql

import (
	"context"
	"crypto/sha1"
	"database/sql"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/internal/sqldb"
	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

// Hashes of "secret", and keys of it.
const (
	secretHash = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
	plainQuery = "select hash, name as username, disabled from users where name = {user}"
)

// table creates a table with a row for every case.
var table = []string{
	"create table users (name text collate nocase, hash text, disabled)",
	"insert into users values ('alice@example.org', '" + secretHash + "', 0)",
	"insert into users values ('bob', '" + secretHash + "', 1)",
	"insert into users values ('truth', '" + secretHash + "', 'true')",
	"insert into users values ('undecided', '" + secretHash + "', null)",
	"insert into users values ('perhaps', '" + secretHash + "', 'perhaps')",
	"insert into users values ('locked', '!" + secretHash + "', 0)",
	"insert into users values ('empty', '', 0)",
	"insert into users values ('none', null, 0)",
	"insert into users values ('clear', 'secret', 0)",
	"insert into users values ('twice', '" + secretHash + "', 0)",
	"insert into users values ('twice', '" + secretHash + "', 0)",
}

// newTable creates a database, and returns its path.
func newTable(t *testing.T, statements ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users ?%.sqlite")
	change(t, path, statements...)
	return path
}

func change(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+strings.NewReplacer("%", "%25", "?", "%3f").Replace(path))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func open(t *testing.T, path, query string) *Store {
	t.Helper()
	cfg := Defaults()
	cfg.Driver, cfg.Path = sqldb.SQLite, path
	set(t, &cfg.Query, query)
	s, err := New(cfg, auth.FoldNone, hash.NewChecker(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// outcome returns "ok" and the user, the kind of the failure, or "temporary".
func outcome(user string, err error) string {
	f, failed := errors.AsType[*auth.Failure](err)
	switch {
	case err == nil:
		return "ok " + user
	case failed:
		return f.Kind.String()
	}
	return "temporary"
}

func verify(t *testing.T, s *Store, login, password string) string {
	t.Helper()
	id, err := s.VerifyPassword(t.Context(), &auth.Peer{}, login, password)
	if err != nil && (id != auth.Identity{} || strings.Contains(err.Error(), secretHash)) {
		t.Errorf("%v with %v", id, err)
	}
	return outcome(id.User, err)
}

func TestVerifyPassword(t *testing.T) {
	s := open(t, newTable(t, table...), plainQuery)
	tests := []struct{ login, password, want string }{
		{"alice@example.org", "secret", "ok alice@example.org"},
		{"ALICE@example.org", "secret", "ok alice@example.org"},
		{"alice@example.org", "wrong", "wrong password"},
		{"alice@example.org", "", "wrong password"},
		{"nobody", "secret", "no such user"},
		{"bob", "secret", "account disabled"},
		{"bob", "wrong", "wrong password"},
		{"truth", "secret", "account disabled"},
		{"undecided", "secret", "temporary"},
		{"perhaps", "secret", "temporary"},
		{"locked", "secret", "wrong password"},
		{"empty", "secret", "wrong password"},
		{"none", "secret", "wrong password"},
		{"clear", "secret", "temporary"},
		{"twice", "secret", "temporary"},
		{"a' or 1=1--", "secret", "no such user"},
		{"' or ''='", "secret", "no such user"},
		{"{user}", "secret", "no such user"},
		{"?1", "secret", "no such user"},
		{"%", "secret", "no such user"},
		{"alice@example.org\x00", "secret", "no such user"},
		{"x\ny", "secret", "no such user"},
		{"\xff", "secret", "no such user"},
		{strings.Repeat("a", 1<<20), "secret", "no such user"},
	}
	for _, tt := range tests {
		if got := verify(t, s, tt.login, tt.password); got != tt.want {
			t.Errorf("%.40q, %q: %s, want %s", tt.login, tt.password, got, tt.want)
		}
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
}

// A password that is longer than the scheme of the hash accepts is wrong, even if the hash was
// computed from it, and for unknown users as well.
func TestLongPasswords(t *testing.T) {
	of := func(octets int) string {
		sum := sha1.Sum([]byte(strings.Repeat("x", octets)))
		return "{SHA}" + base64.StdEncoding.EncodeToString(sum[:])
	}
	s := open(t, newTable(t, table[0],
		"insert into users values ('alice', '"+of(hash.MaxPassword)+"', 0)",
		"insert into users values ('carol', '"+of(hash.MaxPassword+1)+"', 0)",
	), plainQuery)
	for _, tt := range []struct {
		login  string
		octets int
		want   string
	}{
		{"alice", hash.MaxPassword, "ok alice"},
		{"alice", hash.MaxPassword + 1, "wrong password"},
		{"carol", hash.MaxPassword + 1, "wrong password"},
		{"alice", 9213, "wrong password"},
		{"nobody", hash.MaxPassword + 1, "no such user"},
	} {
		if got := verify(t, s, tt.login, strings.Repeat("x", tt.octets)); got != tt.want {
			t.Errorf("%s with %d octets: %s, want %s", tt.login, tt.octets, got, tt.want)
		}
	}
}

// A query with a mistake accepts no login, and Check reports the mistake.
func TestMistakenQueries(t *testing.T) {
	path := newTable(t, table...)
	for query, text := range map[string]string{
		"select name as username, hash from users where name = {user}":                   "hash of the password first",
		"select hash, name from users where name = {user}":                               `"name" is unknown`,
		"select hash from users where name = {user}":                                     "name as username",
		"select hash from users where name = {local}":                                    "name as username",
		"select hash, name as username from nothing where name = {user}":                 "nothing",
		"select hash, name as username from users where name = {user} or 1 = 1":          "rows of different users",
		"select hash, name as username from users where name = 'bob' or name = {user}":   "a user that does not exist",
		"select hash, '' as username from users where name = 'bob' or name = {user}":     "no valid user name",
		"select hash, null as username from users where name = 'bob' or name = {user}":   "no valid user name",
		"select hash, name as username from users where name = {user} and disabled = ?9": "",
	} {
		s := open(t, path, query)
		if got := verify(t, s, "nobody", "secret"); got == "ok nobody" && text != "a user that does not exist" {
			t.Errorf("%s: %s", query, got)
		}
		if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// The user is taken from the row, for every spelling of the login.
func TestSpellings(t *testing.T) {
	path := newTable(t, append(table, "insert into users values ('Carol', '"+secretHash+"', 0)")...)
	for query, logins := range map[string]map[string]string{
		"select hash, name as username from users where lower(name) = lower({user})": {
			"carol": "ok Carol", "CAROL": "ok Carol", "Carol": "ok Carol",
		},
		"select hash, name || '@example.org' as username from users where name = {local}": {
			"truth": "ok truth@example.org", "truth@example.org": "ok truth@example.org", "truth@example.net": "ok truth@example.org",
		},
	} {
		s := open(t, path, query)
		for login, want := range logins {
			if got := verify(t, s, login, "secret"); got != want {
				t.Errorf("%s: %s: %s, want %s", query, login, got, want)
			}
		}
	}
}

func TestScramKeys(t *testing.T) {
	keys, err := hash.New("scram-sha-256", "secret")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, newTable(t, append(table,
		"insert into users values ('carol', '"+keys+"', 0)",
		"insert into users values ('dave', '"+keys+"', 1)",
	)...), plainQuery)
	for login, want := range map[string]string{
		"carol":  "ok carol",
		"Carol":  "no such user", // see TestSaltsOfSpellings
		"bob":    "wrong password",
		"dave":   "wrong password",
		"locked": "wrong password",
		"nobody": "no such user",
		"twice":  "temporary",
		"a\x00":  "no such user",
	} {
		got, err := s.ScramKeys(t.Context(), new(auth.Peer), login)
		if outcome(got.User, err) != want {
			t.Errorf("%s: %s, want %s", login, outcome(got.User, err), want)
		}
		if err == nil && len(got.StoredKey) == 0 {
			t.Errorf("%s: no keys", login)
		}
	}
	if got := verify(t, s, "carol", "secret"); got != "ok carol" {
		t.Errorf("the same keys with a password: %s", got)
	}
	if got := s.ScramDecoy("nobody").ScramShape; got != hash.DefaultScramShape() {
		t.Errorf("decoy %v", got)
	}
}

func TestFileChanges(t *testing.T) {
	path := newTable(t, table...)
	s := open(t, path, plainQuery)
	if got := verify(t, s, "alice@example.org", "secret"); got != "ok alice@example.org" {
		t.Fatal(got)
	}
	change(t, path, "update users set hash = '{SHA}0JQeaNqPOBUf+Gph/Fn3xc+fyqI='")
	if got := verify(t, s, "alice@example.org", "secret"); got != "wrong password" {
		t.Errorf("changed: %s", got)
	}
	if err := os.Rename(newTable(t, table...), path); err != nil {
		t.Fatal(err)
	}
	if got := verify(t, s, "alice@example.org", "secret"); got != "ok alice@example.org" {
		t.Errorf("replaced: %s", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := verify(t, s, "alice@example.org", "secret"); got != "temporary" {
		t.Errorf("removed: %s", got)
	}
	if err := s.Check(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("check: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file was created")
	}
}

// A login waits for a locked file, until ctx ends at most.
func TestLockedFile(t *testing.T) {
	path := newTable(t, table...)
	s := open(t, path, plainQuery)
	other, err := sql.Open("sqlite", "file:"+strings.NewReplacer("%", "%25", "?", "%3f").Replace(path))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.SetMaxOpenConns(1)
	if _, err := other.Exec("begin exclusive"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	id, err := s.VerifyPassword(ctx, &auth.Peer{}, "bob", "secret")
	if got := outcome(id.User, err); got != "temporary" {
		t.Error(got)
	}
	if _, err := other.Exec("rollback"); err != nil {
		t.Fatal(err)
	}
	if got := verify(t, s, "alice@example.org", "secret"); got != "ok alice@example.org" {
		t.Error(got)
	}
}
