package sqldb

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"postern/internal/text"
)

// A pgError is an error with the methods of PostgreSQL's driver.
type pgError string

func (e pgError) Error() string    { return "SQLSTATE " + string(e) }
func (e pgError) SQLState() string { return string(e) }

// A picky database answers a statement and its first parameter with an error, or with no
// row.
type picky func(statement, value string) error

func (p picky) Connect(context.Context) (driver.Conn, error) { return pickyConn{answer: p}, nil }
func (p picky) Driver() driver.Driver                        { return nil }

type pickyConn struct {
	driver.Conn
	answer picky
}

func (pickyConn) Close() error { return nil }

// QueryContext implements driver.QueryerContext.
func (c pickyConn) QueryContext(_ context.Context, statement string, args []driver.NamedValue) (driver.Rows, error) {
	return noRows{}, c.answer(statement, args[0].Value.(string))
}

type noRows struct{}

func (noRows) Columns() []string         { return []string{"password", "username"} }
func (noRows) Close() error              { return nil }
func (noRows) Next([]driver.Value) error { return io.EOF }

// fails returns a database that answers with err if when is true, and otherwise with no row.
func fails(when func(statement, value string) bool, err error) picky {
	return func(statement, value string) error {
		if when(statement, value) {
			return err
		}
		return nil
	}
}

func mysqlError(number uint16) error { return &mysql.MySQLError{Number: number, Message: "no"} }

// first returns the first column of the only row. More rows are a mistake.
func first(r Result) (string, error) {
	switch len(r.Rows) {
	case 0:
		return "", nil
	case 1:
		return r.Rows[0].Text(0)
	}
	return "", errors.New("more than one row")
}

// find returns the value of a key, "none" or "temporary".
func find(t *testing.T, d *DB[string], key string) string {
	t.Helper()
	value, err := d.Find(t.Context(), key)
	switch {
	case err != nil && value != "":
		t.Errorf("%q with %v", value, err)
	case err != nil:
		return "temporary"
	}
	return cmp.Or(value, "none")
}

// A key that the database cannot represent has no row. The same error with another cause is
// temporary.
func TestUnrepresentableKeys(t *testing.T) {
	const beyond = "\u65e5"
	var (
		key   = func(_, v string) bool { return !text.IsASCII(v) }
		rows  = func(statement, _ string) bool { return strings.Contains(statement, "from") }
		alice = func(_, v string) bool { return v == "alice" }
		every = func(_, _ string) bool { return true }
	)
	tests := map[string]struct {
		answer picky
		key    string
		want   string
	}{
		"two collations":          {fails(key, mysqlError(1267)), beyond, "none"},
		"no conversion":           {fails(key, mysqlError(1977)), beyond, "none"},
		"the query mixes columns": {fails(every, mysqlError(1267)), beyond, "temporary"},
		"ASCII key":               {fails(alice, mysqlError(1267)), "alice", "temporary"},
		"no such table":           {fails(key, mysqlError(1146)), beyond, "temporary"},
		"PostgreSQL":              {fails(key, pgError("22P05")), beyond, "none"},
		"a row of PostgreSQL":     {fails(rows, pgError("22P05")), beyond, "temporary"},
		"another SQLSTATE":        {fails(key, pgError("42P01")), beyond, "temporary"},
	}
	query := statement{"select password, username from mailbox where username = ?", []string{"{user}"}}
	for name, tt := range tests {
		d := &DB[string]{db: sql.OpenDB(tt.answer), statement: query, limit: 2, read: first}
		if got := find(t, d, tt.key); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		d.read = func(Result) (string, error) { return "", errors.New("mistake") }
		if got := find(t, d, tt.key); got != "temporary" && !strings.Contains(name, "PostgreSQL") {
			t.Errorf("%s, with a mistake in the query: %s", name, got)
		}
		d.Close()
	}
}

// A query that fails because of a broken connection is made again, and no other one.
func TestSecondAttempt(t *testing.T) {
	attempts := 0
	answer := func(string, string) error {
		if attempts++; attempts == 1 {
			return errors.New("broken connection")
		}
		return nil
	}
	mistake := error(nil)
	d := &DB[string]{
		db:        sql.OpenDB(picky(answer)),
		statement: statement{"select a from s where n = ?", []string{"{user}"}},
		limit:     1,
		read:      func(Result) (string, error) { return "", mistake },
	}
	defer d.Close()
	if got := find(t, d, "alice"); got != "none" || attempts != 2 {
		t.Errorf("%s after %d attempts", got, attempts)
	}
	mistake = errors.New("mistake")
	if got := find(t, d, "alice"); got != "temporary" || attempts != 3 {
		t.Errorf("mistake: %s after %d attempts", got, attempts)
	}
	attempts, mistake = 0, nil
	if _, err := d.Check(t.Context()); err == nil || attempts != 1 {
		t.Errorf("check: %v after %d attempts", err, attempts)
	}
}

// Rows after the limit are not read, and values of every type are texts.
func TestResults(t *testing.T) {
	cfg := Defaults()
	cfg.Driver, cfg.Path = SQLite, filepath.Join(t.TempDir(), "a ?%.sqlite")
	if err := os.WriteFile(cfg.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"select 'a' as x, 2 as y where {user} = 'alice'":                                   "x,y: a,2",
		"select 'a' as x where {user} = 'bob'":                                             "x:",
		"select null as x, 1.5 as y, {local}":                                              "x,y,?1: ,1.5,alice",
		"select x from (select {user} as x union select 'b' union select 'c')":             "x: alice b",
		"with recursive n(x) as (select {user} union all select x from n) select x from n": "x: alice alice",
	} {
		d, err := Open(cfg, parse(t, query), 2, func(r Result) (string, error) {
			text := strings.Join(r.Columns, ",") + ":"
			for _, row := range r.Rows {
				var values []string
				for i := range row {
					value, err := row.Text(i)
					if err != nil {
						return "", err
					}
					values = append(values, value)
				}
				text += " " + strings.Join(values, ",")
			}
			return text, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := find(t, d, "alice"); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
		d.Close()
	}
}

// A database, a file beside it, and the files of a DSN must not be writable for every user of
// the machine.
func TestOpenRefusesFilesThatOthersCanChange(t *testing.T) {
	q := parse(t, "select h from u where n = {user}")
	for _, tt := range []struct {
		driver Driver
		dsn    string // with DIR; empty: none
		file   string
		at     string // what is writable
	}{
		{SQLite, "", "users.sqlite", "users.sqlite"},
		{SQLite, "", "users.sqlite-wal", "users.sqlite-wal"},
		{SQLite, "", "users.sqlite-journal", "users.sqlite-journal"},
		{SQLite, "", "users.sqlite", "."},
		{Postgres, "host=/run/postgresql password=topsecret", "dsn", "dsn"},
		{Postgres, "host=db.example.org sslkey=DIR/key.pem", "key.pem", "key.pem"},
		{Postgres, "postgres://u@db.example.org/mail?sslrootcert=DIR%2fca.pem", "ca.pem", "ca.pem"},
		{Postgres, "host=db.example.org passfile=DIR/pass", "pass", "."},
	} {
		t.Run(tt.file+" "+tt.at, func(t *testing.T) {
			dir := t.TempDir()
			cfg := Defaults()
			cfg.Driver = tt.driver
			for _, name := range []string{"users.sqlite", "dsn", tt.file} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(tt.dsn, "DIR", dir)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if cfg.Driver == SQLite {
				cfg.Path = filepath.Join(dir, "users.sqlite")
			} else {
				cfg.DSNFile = filepath.Join(dir, "dsn")
			}
			at := filepath.Join(dir, tt.at)
			if err := os.Chmod(at, 0o707); err != nil {
				t.Fatal(err)
			}
			_, err := Open(cfg, q, 1, first)
			if err == nil || !strings.Contains(err.Error(), "run chmod o-w "+at) || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, dsn := range []string{"u@/d?interpolateParams=true", "host=db default_query_exec_mode=simple_protocol"} {
		if err := checkParameters(dsn, "login"); err == nil || !strings.Contains(err.Error(), "a login would") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

// The encoding of PostgreSQL is UTF-8, unless the DSN sets another one.
func TestInUTF8(t *testing.T) {
	for dsn, want := range map[string]string{
		"host=/run/postgresql dbname=mail":                "host=/run/postgresql dbname=mail client_encoding=UTF8",
		"postgres://postern@db.example.org/mail":          "postgres://postern@db.example.org/mail?client_encoding=UTF8",
		"postgresql://db.example.org/mail?sslmode=prefer": "postgresql://db.example.org/mail?sslmode=prefer&client_encoding=UTF8",
		"dbname=mail client_encoding=LATIN1":              "dbname=mail client_encoding=LATIN1",
	} {
		if got := inUTF8(dsn); got != want {
			t.Errorf("%s: %s, want %s", dsn, got, want)
		}
	}
}
