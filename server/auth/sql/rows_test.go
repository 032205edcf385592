package sql

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"postern/internal/sqldb"
	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/test/kit"
)

const rowsQuery = "select hash, name as username, disabled from passwords where name = {user} order by rowid"

// openRows opens a store with a table of passwords: each line is a row, "name hash" or "name hash
// disabled", where a name has any case.
func openRows(t *testing.T, rows int, fold auth.Fold, lines ...string) *Store {
	t.Helper()
	statements := []string{"create table passwords (name text collate nocase, hash text, disabled integer)"}
	for _, line := range lines {
		fields := strings.SplitN(line, " ", 2)
		stored, disabled := strings.TrimSuffix(fields[1], " disabled"), strings.HasSuffix(line, " disabled")
		statements = append(statements, fmt.Sprintf("insert into passwords values ('%s', '%s', %v)", fields[0], stored, disabled))
	}
	cfg := Defaults()
	cfg.Driver, cfg.Path, cfg.Rows, cfg.UnknownUserHash = sqldb.SQLite, newTable(t, statements...), rows, "apr1"
	set(t, &cfg.Query, rowsQuery)
	s, err := New(cfg, fold, hash.NewChecker(1<<40))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A user with several rows has several passwords.
func TestSeveralRows(t *testing.T) {
	s := openRows(t, 3, "",
		"alice {PLAIN}phone", "alice {PLAIN}laptop", "alice !{PLAIN}lost",
		"bob {PLAIN}old disabled", "bob {PLAIN}new", "bob {PLAIN}old",
		"carol {PLAIN}closed disabled", "carol !", "carol ",
		"dave {ROT13}x", "dave {PLAIN}known",
		"erin !", "erin *LK*",
		"frank {PLAIN}a", "Frank {PLAIN}b",
		"grace {PLAIN}1", "grace {PLAIN}2", "grace {PLAIN}3", "grace {PLAIN}4",
	)
	for _, tt := range []struct{ login, password, want string }{
		{"alice", "phone", "ok alice"},
		{"alice", "laptop", "ok alice"},
		{"alice", "lost", "wrong password"},
		{"bob", "new", "ok bob"},
		{"bob", "old", "ok bob"}, // the third row is not disabled
		{"carol", "closed", "account disabled"},
		{"carol", "other", "wrong password"},
		{"dave", "known", "ok dave"},
		{"dave", "x", "temporary"},
		{"erin", "x", "wrong password"},
		{"frank", "a", "temporary"},
		{"grace", "1", "temporary"},
		{"nobody", "1", "no such user"},
	} {
		for range 2 {
			if got := verify(t, s, tt.login, tt.password); got != tt.want {
				t.Errorf("%s, %q: %s, want %s", tt.login, tt.password, got, tt.want)
			}
		}
	}
	for login, want := range map[string]string{
		"frank": `rows of different users for a login, "frank" and "Frank"`,
		"grace": "more than 3 rows for a login, the value of rows",
		"dave":  `the hash of "dave": unknown password scheme {ROT13}`,
	} {
		if _, err := s.VerifyPassword(t.Context(), &auth.Peer{}, login, "wrong"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want ...%s...", login, err, want)
		}
	}
	one := openRows(t, 1, "", "alice {PLAIN}phone", "alice {PLAIN}laptop", "bob {PLAIN}x")
	if _, err := one.VerifyPassword(t.Context(), &auth.Peer{}, "alice", "phone"); err == nil || !strings.Contains(err.Error(), "more than one row for a login") {
		t.Errorf("two rows by default: %v", err)
	}
	if got := verify(t, one, "bob", "x"); got != "ok bob" {
		t.Errorf("one row: %s", got)
	}
}

// Every refused login computes as many hashes as there may be rows, whatever there is. A password
// that has matched before computes none, whichever row it is in.
func TestRefusalsComputeTheSameHashes(t *testing.T) {
	one := hash.Kind("apr1").Sample()
	s := openRows(t, 3, "", "alice "+one, "bob "+one, "bob "+one+"  ", "carol "+one, "carol "+one, "carol "+one,
		"locked !"+one, "half !", "half "+one, "dave "+one, "dave {PLAIN}right")
	want := []hash.Kind{"apr1", "apr1", "apr1"}
	for _, login := range []string{"alice", "bob", "carol", "locked", "half", "nobody"} {
		if got := computed(t, s, login); !slices.Equal(got, want) {
			t.Errorf("%s: %q", login, got)
		}
	}
	for i, want := range []int{2, 0, 0} {
		var kinds []hash.Kind
		ctx := hash.WithTrace(t.Context(), func(k hash.Kind) { kinds = append(kinds, k) })
		if _, err := s.VerifyPassword(ctx, &auth.Peer{}, "dave", "right"); err != nil || len(kinds) != want {
			t.Errorf("login %d: %v, computed %q, want %d", i, err, kinds, want)
		}
	}
	if got := computed(t, openRows(t, 1, "", "alice "+one), "nobody"); len(got) != 1 {
		t.Errorf("with one row: %q", got)
	}
}

// SCRAM uses the keys of a user who has exactly one row with keys.
func TestScramKeysOfSeveralRows(t *testing.T) {
	keys, err := hash.New("scram-sha-256", "secret")
	kit.Must(t, err)
	s := openRows(t, 3, "", "alice {PLAIN}x", "alice "+keys, "alice !", "bob "+keys, "bob "+keys, "carol {PLAIN}x", "carol {PLAIN}y",
		"dave {ROT13}x", "dave {PLAIN}x", "erin {PLAIN}x", "erin "+keys+" disabled", "frank !"+keys, "Grace "+keys, "Grace {PLAIN}x")
	for login, want := range map[string]string{
		"alice": "ok alice", "Alice": "no such user", "bob": "wrong password", "carol": "wrong password", "dave": "temporary",
		"erin": "wrong password", "frank": "wrong password", "nobody": "no such user", "Grace": "ok Grace", "grace": "no such user",
	} {
		got, err := s.ScramKeys(t.Context(), new(auth.Peer), login)
		if outcome(got.User, err) != want {
			t.Errorf("%s: %v, want %s", login, err, want)
		}
	}
	if _, err := s.ScramKeys(t.Context(), new(auth.Peer), "bob"); err == nil || !strings.Contains(err.Error(), "2 rows have SCRAM keys") {
		t.Errorf("two rows with keys: %v", err)
	}
}

// With fold, all spellings are one login, with the keys of the row in whatever case it is.
func TestFoldedLogins(t *testing.T) {
	keys, err := hash.New("scram-sha-256", "secret")
	kit.Must(t, err)
	s := openRows(t, 1, auth.FoldLower, "Alice@Example.ORG "+keys)
	login := auth.FoldLower.Login("ALICE@example.org")
	if got := verify(t, s, login, "secret"); got != "ok Alice@Example.ORG" {
		t.Errorf("password: %s", got)
	}
	if got, err := s.ScramKeys(t.Context(), new(auth.Peer), login); err != nil || got.User != "Alice@Example.ORG" {
		t.Errorf("SCRAM: %v", err)
	}
}

// A column of the type CHAR pads hashes with blanks. Those of a password in clear text are part of
// it.
func TestBlanksAroundHashes(t *testing.T) {
	s := openRows(t, 1, "", "alice "+secretHash+"    ", "bob {PLAIN}a b ", "carol     ", "dave !   ", "erin  "+secretHash)
	for _, tt := range []struct{ login, password, want string }{
		{"alice", "secret", "ok alice"},
		{"bob", "a b ", "ok bob"},
		{"bob", "a b", "wrong password"},
		{"carol", "x", "wrong password"},
		{"dave", "x", "wrong password"},
		{"erin", "secret", "ok erin"},
	} {
		if got := verify(t, s, tt.login, tt.password); got != tt.want {
			t.Errorf("%s, %q: %s, want %s", tt.login, tt.password, got, tt.want)
		}
	}
}

func TestRowsOfTheConfiguration(t *testing.T) {
	for rows, ok := range map[int]bool{-1: false, 0: false, 1: true, 16: true, 17: false} {
		cfg := Defaults()
		cfg.Driver, cfg.Path, cfg.Rows = sqldb.SQLite, "/u", rows
		set(t, &cfg.Query, plainQuery)
		if got := kit.BadKeys(t, cfg.Validate); (got == nil) != ok {
			t.Errorf("rows = %d: %q", rows, got)
		}
	}
}

// An error of the queue is temporary, and no failure.
func TestManyHashesAreBounded(t *testing.T) {
	s := openRows(t, 16, "", "alice "+secretHash)
	s.checker.SetWait(-1)
	for _, login := range []string{"alice", "nobody"} {
		if _, err := s.VerifyPassword(t.Context(), &auth.Peer{}, login, "wrong"); !errors.Is(err, hash.ErrBusy) {
			t.Errorf("%s: %v", login, err)
		}
	}
}
