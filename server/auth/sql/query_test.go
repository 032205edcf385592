package sql

import (
	"slices"
	"testing"

	"postern/internal/sqldb"
	"postern/test/kit"
)

// set parses a value of the configuration.
func set(t testing.TB, v interface{ UnmarshalText([]byte) error }, text string) {
	t.Helper()
	if err := v.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// The keys are those of the database and query.
func TestValidate(t *testing.T) {
	cfg := Defaults()
	if got, want := kit.BadKeys(t, cfg.Validate), []string{"driver", "query"}; !slices.Equal(got, want) {
		t.Errorf("errors for %q, want %q", got, want)
	}
	cfg.Driver, cfg.Path = sqldb.SQLite, "/u"
	set(t, &cfg.Query, plainQuery)
	if got := kit.BadKeys(t, cfg.Validate); got != nil {
		t.Errorf("errors for %q", got)
	}
}

// A query that cannot return the name of the user is a mistake in the configuration.
func TestQueriesWithoutName(t *testing.T) {
	for query, want := range map[string][]string{
		"select hash from users where name = {user}":                   {"query"},
		"select hash from users where lower(name) = lower({user})":     {"query"},
		"select hash, name as UserName from users where name = {user}": nil,
		"select * from logins where name = {user}":                     nil,
		"call login({user})": nil,
	} {
		cfg := Defaults()
		cfg.Driver, cfg.Path = sqldb.SQLite, "/u"
		set(t, &cfg.Query, query)
		if got := kit.BadKeys(t, cfg.Validate); !slices.Equal(got, want) {
			t.Errorf("%s: errors for %q, want %q", query, got, want)
		}
	}
}
