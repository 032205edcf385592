package sqldb

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/internal/access"
	"postern/test/kit"
)

func TestValidate(t *testing.T) {
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
			if got := kit.BadKeys(t, cfg.Validate); !slices.Equal(got, tt.keys) {
				t.Errorf("errors for %q, want %q", got, tt.keys)
			}
		})
	}
	bare := Config{Driver: SQLite, Path: "/u"}
	if got, want := kit.BadKeys(t, bare.Validate), []string{"connections", "idle_time"}; !slices.Equal(got, want) {
		t.Errorf("errors for %q, want %q", got, want)
	}
}

func TestDriverNames(t *testing.T) {
	for _, text := range []string{"postgres", "mysql", "sqlite"} {
		if err := new(Driver).UnmarshalText([]byte(text)); err != nil {
			t.Error(err)
		}
	}
	for _, text := range []string{"", "pgx", "MySQL", "oracle"} {
		if err := new(Driver).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

// The sandbox must allow the files and the ports that the driver uses.
func TestAccess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(file, []byte("postern:secret@tcp(db:3307)/mail\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Driver: SQLite, Path: "/u"}, "at.path /u"},
		{Config{Driver: MySQL, DSNFile: file}, "at.dsn_file " + file + ", at.dsn_file 3307"},
		{Config{Driver: MySQL, DSN: "postern@unix(/run/mysqld/mysqld.sock)/mail"}, ""},
		{Config{Driver: MySQL, DSN: "postern@tcp(db"}, ""},
		{Config{Driver: Postgres, DSN: "host=/run/postgresql user=postern"}, ""},
		{Config{Driver: Postgres, DSN: "host=a,b port=5433,5434 user=postern sslmode=disable"}, "at.dsn 5433, at.dsn 5434"},
		{Config{Driver: Postgres, DSN: "postgres://postern@/mail?host=/run/postgresql&sslrootcert=/etc/ca%20.pem"}, "at.dsn /etc/ca .pem"},
	} {
		var list access.List
		tt.cfg.Access(func(key string) string { return "at." + key }, &list)
		var got []string
		for _, f := range list.Reads {
			got = append(got, f.Key+" "+f.Path)
		}
		for _, p := range list.Ports {
			if s := fmt.Sprint(p.Key, " ", p.Port); !slices.Contains(got, s) {
				got = append(got, s)
			}
		}
		if got := strings.Join(got, ", "); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.cfg, got, tt.want)
		}
	}
}
