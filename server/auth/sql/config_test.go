package sql

import (
	"slices"
	"testing"
)

// set parses a value of the configuration.
func set(t testing.TB, v interface{ UnmarshalText([]byte) error }, text string) {
	t.Helper()
	if err := v.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestValidate(t *testing.T) {
	query := "select hash, name as username from users where name = {user}"
	tests := []struct {
		name string
		cfg  Config
		keys []string // with an error
	}{
		{"nothing", Config{}, []string{"driver"}},
		{"server", Config{Driver: Postgres, DSN: "host=/run/postgresql"}, nil},
		{"server, file", Config{Driver: MySQL, DSNFile: "/etc/postern/dsn"}, nil},
		{"server without DSN", Config{Driver: Postgres}, []string{"dsn"}},
		{"server with both", Config{Driver: Postgres, DSN: "host=/run/postgresql", DSNFile: "/etc/postern/dsn"}, []string{"dsn_file"}},
		{"server with path", Config{Driver: MySQL, DSN: "postern@/mail", Path: "/var/lib/users.sqlite"}, []string{"path"}},
		{"relative file", Config{Driver: MySQL, DSNFile: "dsn"}, []string{"dsn_file"}},
		{"password, URL", Config{Driver: Postgres, DSN: "postgres://postern:secret@db/mail"}, []string{"dsn"}},
		{"password, parameter", Config{Driver: Postgres, DSN: "postgres://db/mail?user=postern&password=secret"}, []string{"dsn"}},
		{"password, pairs", Config{Driver: Postgres, DSN: "host=db Password = secret"}, []string{"dsn"}},
		{"password, MySQL", Config{Driver: MySQL, DSN: "postern:secret@tcp(db)/mail"}, []string{"dsn"}},
		{"odd password, MySQL", Config{Driver: MySQL, DSN: "postern:s/e(c?r@et@tcp(db)/mail"}, []string{"dsn"}},
		{"odd password, MySQL at home", Config{Driver: MySQL, DSN: "postern:s/t@/mail"}, []string{"dsn"}},
		{"no host, URL", Config{Driver: Postgres, DSN: "postgres://postern@/mail?host=/run/postgresql"}, nil},
		{"port, URL", Config{Driver: Postgres, DSN: "postgres://postern@db:5432/mail"}, nil},
		{"port, MySQL", Config{Driver: MySQL, DSN: "postern@tcp(db:3306)/mail"}, nil},
		{"address, MySQL", Config{Driver: MySQL, DSN: "postern@tcp([2001:db8::1]:3306)/mail"}, nil},
		{"SQLite", Config{Driver: SQLite, Path: "/var/lib/users.sqlite"}, nil},
		{"SQLite without path", Config{Driver: SQLite}, []string{"path"}},
		{"SQLite with DSN", Config{Driver: SQLite, Path: "/u", DSN: "x", DSNFile: "/y"}, []string{"dsn", "dsn_file"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tt.cfg
			cfg.Connections, cfg.IdleTime = Defaults().Connections, Defaults().IdleTime
			set(t, &cfg.Query, query)
			if got := badKeys(t, cfg); !slices.Equal(got, tt.keys) {
				t.Errorf("errors for %q, want %q", got, tt.keys)
			}
		})
	}
	bare := Config{Driver: SQLite, Path: "/u"}
	if got, want := badKeys(t, bare), []string{"query", "connections", "idle_time"}; !slices.Equal(got, want) {
		t.Errorf("errors for %q, want %q", got, want)
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
		cfg.Driver, cfg.Path = SQLite, "/u"
		set(t, &cfg.Query, query)
		if got := badKeys(t, cfg); !slices.Equal(got, want) {
			t.Errorf("%s: errors for %q, want %q", query, got, want)
		}
	}
}

func badKeys(t *testing.T, cfg Config) (keys []string) {
	cfg.Validate(func(key, why string) {
		keys = append(keys, key)
		if len(why) < 20 {
			t.Errorf("%s: %q has no next step", key, why)
		}
	})
	return keys
}

func TestDriverNames(t *testing.T) {
	for _, text := range []string{"postgres", "mysql", "sqlite"} {
		var d Driver
		set(t, &d, text)
	}
	for _, text := range []string{"", "pgx", "MySQL", "oracle"} {
		if err := new(Driver).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
