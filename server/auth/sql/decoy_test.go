package sql

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/internal/sqldb"
	"postern/server/auth"
	"postern/server/auth/hash"
)

// crowd creates a table with users of two kinds: mallory and mal, whose hashes are rare, and ten
// others.
func crowd(rare, common hash.Kind) []string {
	statements := []string{table[0],
		"insert into users values ('mallory', '" + rare.Sample() + "', 0)",
		"insert into users values ('mal', '" + rare.Sample() + "', 0)",
	}
	for i := range 10 {
		statements = append(statements, fmt.Sprintf("insert into users values ('user%d', '%s', 0)", i, common.Sample()))
	}
	return statements
}

// computed returns the kinds of the hashes that a login computes.
func computed(t *testing.T, s *Store, login string) (kinds []hash.Kind) {
	t.Helper()
	ctx := hash.WithTrace(t.Context(), func(k hash.Kind) { kinds = append(kinds, k) })
	if _, err := s.VerifyPassword(ctx, &auth.Peer{}, login, "wrong"); err == nil {
		t.Errorf("%s is accepted", login)
	}
	return kinds
}

// An attacker with two accounts whose hashes are cheaper than those of the others, or dearer,
// cannot choose the hash of an unknown user by logging in often, under any spelling.
func TestLoginsDoNotChooseTheDecoy(t *testing.T) {
	for _, kinds := range [][2]hash.Kind{{"ssha", "apr1"}, {"apr1", "ssha"}} {
		rare, common := kinds[0], kinds[1]
		s := open(t, newTable(t, crowd(rare, common)...), plainQuery)
		attack := func() {
			for i := range 40 {
				computed(t, s, []string{"mallory", "Mallory", "MALLORY", "mal"}[i%4])
				computed(t, s, fmt.Sprint("guess", i))
			}
		}
		attack() // right after the start
		if got := computed(t, s, "nobody"); !slices.Equal(got, []hash.Kind{rare}) {
			t.Errorf("before others have been seen: %q", got)
		}
		for i := range 4 {
			computed(t, s, fmt.Sprint("user", i))
		}
		for range 2 {
			for _, login := range []string{"nobody", "user9"} {
				if got := computed(t, s, login); !slices.Equal(got, []hash.Kind{common}) {
					t.Errorf("%s: %q, want one %s", login, got, common)
				}
			}
			attack()
		}
	}
}

// The same holds for the parameters of SCRAM keys, which are visible to every client.
func TestLoginsDoNotChooseTheShapeOfDecoys(t *testing.T) {
	s := open(t, newTable(t, crowd("scram-sha-256 5000", "scram-sha-256 6000")...), plainQuery)
	ask := func(login string) { _, _ = s.ScramKeys(t.Context(), &auth.Peer{}, login) }
	for i := range 4 {
		ask(fmt.Sprint("user", i))
	}
	for range 40 {
		ask("mallory")
		ask("mal")
	}
	if got := s.ScramDecoy("nobody").Iterations; got != 6000 {
		t.Errorf("%d iterations, want those of most users", got)
	}
}

// A store that is opened again, as after a reload, knows its users. The configuration has
// precedence.
func TestDecoyAfterReload(t *testing.T) {
	path, checker := newTable(t, crowd("ssha", "scram-sha-256 6000")...), hash.NewChecker(time.Minute)
	reopen := func(kind hash.Kind, query string) *Store {
		cfg := Defaults()
		cfg.Driver, cfg.Path, cfg.UnknownUserHash = sqldb.SQLite, path, kind
		set(t, &cfg.Query, query)
		s, err := New(cfg, auth.FoldNone, checker)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	computed(t, reopen("", plainQuery), "user1")
	for _, tt := range []struct {
		kind       hash.Kind
		query      string
		want       hash.Kind
		iterations int
	}{
		{"", plainQuery, "scram-sha-256 6000", 6000},
		{"", plainQuery + " and 1 = 1", hash.DefaultKind, hash.DefaultScramShape().Iterations},
		{"apr1", plainQuery, "apr1", 6000},
		{"scram-sha-256 4096", plainQuery, "scram-sha-256 4096", 4096},
	} {
		s := reopen(tt.kind, tt.query)
		if got := computed(t, s, "nobody"); !slices.Equal(got, []hash.Kind{tt.want}) || s.ScramDecoy("nobody").Iterations != tt.iterations {
			t.Errorf("%+v: computed %q, %d iterations", tt, got, s.ScramDecoy("nobody").Iterations)
		}
	}
}

// salts returns, for each login, what decides the salt that a client gets: the salt of real keys,
// or the name from which that of a decoy is derived.
func salts(t *testing.T, s *Store, logins ...string) (all []string) {
	t.Helper()
	for _, login := range logins {
		keys, err := s.ScramKeys(t.Context(), &auth.Peer{}, login)
		switch outcome(keys.User, err) {
		case "temporary":
			t.Errorf("%s: %v", login, err)
		case "ok " + keys.User:
			all = append(all, "real "+string(keys.Salt))
		default:
			all = append(all, s.ScramDecoy(login).Login)
		}
	}
	return all
}

// Two spellings have the same salt for an existing user exactly if they have for another one:
// otherwise two questions would show whether there is a user.
func TestSaltsOfSpellings(t *testing.T) {
	keys, err := hash.New("scram-sha-256", "secret")
	if err != nil {
		t.Fatal(err)
	}
	path := newTable(t,
		"create table users (name text collate nocase, hash text, mail text)",
		"insert into users values ('bob', '"+keys+"', 'bob@example.org')",
	)
	for query, real := range map[string]string{
		"select hash, name as username from users where name = {user}":                                "bob",
		"select hash, name as username from users where lower(name) = lower({user})":                  "bob",
		"select hash, name as username from users where name = {local}":                               "bob",
		"select hash, mail as username from users where name = {local}":                               "bob@example.org",
		"select hash, mail as username from users where lower(mail) = lower({user})":                  "bob@example.org",
		"select hash, name as username, mail as login from users where lower(mail) = lower({user})":   "bob@example.org",
		"select hash, name as username, mail as Login from users where mail = {local}||'@'||{domain}": "bob@example.org",
		"select hash, upper(name) as username from users where name = {user}":                         "BOB",
	} {
		s := open(t, path, query)
		of := func(local string) []string {
			upper := strings.ToUpper(local)
			return salts(t, s, local, upper, local+"@example.org", local+"@EXAMPLE.org", upper+"@example.org", local+"@example.net")
		}
		existing, other := of("bob"), of("eve")
		for i := range existing {
			for j := range i {
				if same, otherSame := existing[i] == existing[j], other[i] == other[j]; same != otherSame {
					t.Errorf("%s: spellings %d and %d: the same salt %v, and %v without such a user", query, i, j, same, otherSame)
				}
			}
		}
		if got, err := s.ScramKeys(t.Context(), &auth.Peer{}, real); err != nil || len(got.StoredKey) == 0 {
			t.Errorf("%s: no keys for %s: %v", query, real, err)
		}
		if got := verify(t, s, real, "secret"); got[:2] != "ok" {
			t.Errorf("%s: %s by password: %s", query, real, got)
		}
	}
}
