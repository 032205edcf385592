package sql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"postern/internal/text"
	"postern/server/auth/hash"
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

// A name that the database cannot represent is of no user. The same error with another cause
// is temporary.
func TestUnrepresentableNames(t *testing.T) {
	const beyond = "\u65e5"
	var (
		login = func(_, v string) bool { return !text.IsASCII(v) }
		rows  = func(statement, _ string) bool { return strings.Contains(statement, "from") }
		alice = func(_, v string) bool { return v == "alice" }
		every = func(_, _ string) bool { return true }
	)
	tests := map[string]struct {
		answer picky
		login  string
		want   string
	}{
		"two collations":          {fails(login, mysqlError(1267)), beyond, "no such user"},
		"no conversion":           {fails(login, mysqlError(1977)), beyond, "no such user"},
		"the query mixes columns": {fails(every, mysqlError(1267)), beyond, "temporary"},
		"ASCII login":             {fails(alice, mysqlError(1267)), "alice", "temporary"},
		"no such table":           {fails(login, mysqlError(1146)), beyond, "temporary"},
		"PostgreSQL":              {fails(login, pgError("22P05")), beyond, "no such user"},
		"a row of PostgreSQL":     {fails(rows, pgError("22P05")), beyond, "temporary"},
		"another SQLSTATE":        {fails(login, pgError("42P01")), beyond, "temporary"},
	}
	for name, tt := range tests {
		db := sql.OpenDB(tt.answer)
		s := &Store{db: db, checker: hash.NewChecker(time.Minute), statement: statement{"select password, username from mailbox where username = ?", []string{"{user}"}}}
		s.kinds.add("sha", secretHash)
		if got := verify(t, s, tt.login, "secret"); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		keys, err := s.ScramKeys(t.Context(), tt.login)
		if got := outcome(keys.User, err); got != tt.want {
			t.Errorf("%s, by SCRAM: %s, want %s", name, got, tt.want)
		}
		db.Close()
	}
}
