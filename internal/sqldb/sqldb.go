// Package sqldb finds the rows of a key in a database: PostgreSQL, MySQL or MariaDB, or an
// SQLite file. The key is a login or an address, and it comes from a client.
//
// A [Config] is the address of the database, and a [Query] is the statement. A [DB] has both
// of them, and a function that makes a value of the rows:
//
//	cfg := sqldb.Defaults()
//	cfg.Driver, cfg.DSN = sqldb.Postgres, "host=/run/postgresql user=postern dbname=mail"
//	cfg.Validate(bad)
//	q, err := sqldb.ParseQuery("select name from mailbox where name = {user}", key)
//	db, err := sqldb.Open(cfg, q, 1, read)
//	value, err := db.Find(ctx, "alice@example.org")
//
// The caller decides what the columns mean, and what no row and several rows mean. This
// package decides how the database is asked:
//
//   - The key is a parameter of the statement and never part of its text. DSNs with which the
//     driver would insert it into the text are refused.
//   - A DSN with a password is only accepted from a file that other users of the machine
//     cannot read. No error contains the password.
//   - A key that the character set of the database cannot represent is found nowhere. Every
//     other error means that the database cannot answer now.
//   - A broken connection is replaced, and the query is made again, once.
//   - An SQLite file is opened for each query, read-only, so that a file that has replaced it
//     is used at once. A missing file is not created.
//
// Bounds: Config.Connections at once, 10 seconds for a connect, 5 seconds for the lock of an
// SQLite file, and the caller's ctx for everything; at most the number of rows that the
// caller gives; 4 KiB for a file with a DSN. The size of a key and of a row is not bounded
// here: the caller checks the first, and the query determines the second.
//
// Left out: writing, transactions, several statements, and databases with other drivers. To
// add a database, add its constant, its placeholder and its driver.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/go-sql-driver/mysql"

	"postern/internal/text"
)

// A DB finds values of type T. It may be used by many goroutines at once, and must be closed.
type DB[T any] struct {
	db        *sql.DB
	driver    Driver
	where     place
	maxIdle   int // connections in the pool
	statement statement
	limit     int
	read      func(Result) (T, error)
}

// A Result is what the database returns for a key.
type Result struct {
	Columns []string
	Rows    []Row
}

// A Row has one value for each column, of the type that the driver chooses. NULL is nil.
type Row []any

// Text returns the value of a column as text. NULL is the empty text.
func (r Row) Text(column int) (string, error) {
	var value sql.NullString
	err := value.Scan(r[column])
	return value.String, err
}

// Open returns a database. cfg is valid. It returns an error if the DSN cannot be read or
// parsed. It does not connect, so it succeeds while the database is down.
//
// read makes a value of a result. The zero value of T means that there is none. A result has at
// most limit rows, which is positive; further rows are not read. An error of read is a mistake
// in the query or the table, so the query is not made again. read may be called by many
// goroutines at once.
func Open[T any](cfg Config, q Query, limit int, read func(Result) (T, error)) (*DB[T], error) {
	c, err := newConnector(cfg, q.key.Noun)
	if err != nil {
		return nil, err
	}
	d := &DB[T]{
		db:        sql.OpenDB(c),
		driver:    cfg.Driver,
		where:     cfg.place(),
		maxIdle:   cfg.maxIdle(),
		statement: q.translate(cfg.Driver),
		limit:     limit,
		read:      read,
	}
	d.db.SetMaxOpenConns(cfg.Connections)
	d.db.SetMaxIdleConns(d.maxIdle)
	d.db.SetConnMaxIdleTime(cfg.IdleTime)
	return d, nil
}

// Close closes all connections. All queries fail afterwards.
func (d *DB[T]) Close() error { return d.db.Close() }

// Find returns what read makes of the rows of key. It returns the zero value if the database
// cannot represent the key. An error means that the database or the query cannot be used now:
// the caller must not take it for "not found".
func (d *DB[T]) Find(ctx context.Context, key string) (T, error) {
	var none T
	found, repeat, err := d.query(ctx, key)
	if repeat && d.cannotHold(ctx, key, err) {
		return none, nil
	}
	if repeat && ctx.Err() == nil {
		// After a restart of the server all connections in the pool are broken, and some
		// drivers only detect that with a query.
		d.db.SetMaxIdleConns(-1)
		d.db.SetMaxIdleConns(d.maxIdle)
		found, _, err = d.query(ctx, key)
	}
	if err != nil {
		return none, d.where.explain(err)
	}
	return found, nil
}

// AbsentKey is a key that no table has, since logins and addresses have no blanks.
const AbsentKey = "postern check"

// Check returns what read makes of the rows of [AbsentKey]. It does not repeat the query. The
// error has the remedy.
func (d *DB[T]) Check(ctx context.Context) (found T, err error) {
	if found, _, err = d.query(ctx, AbsentKey); err != nil {
		err = d.where.explain(err)
	}
	return found, err
}

// query makes one query. repeat is whether another one could succeed: err is not that of read.
func (d *DB[T]) query(ctx context.Context, key string) (found T, repeat bool, err error) {
	r, err := d.rows(ctx, key)
	if err != nil {
		return found, true, err
	}
	found, err = d.read(r)
	return found, false, err
}

func (d *DB[T]) rows(ctx context.Context, key string) (r Result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rows, err := d.db.QueryContext(ctx, d.statement.text, d.statement.arguments(key)...)
	if err != nil {
		return r, err
	}
	defer rows.Close()
	if r.Columns, err = rows.Columns(); err != nil {
		return r, err
	}
	for rows.Next() {
		row := make(Row, len(r.Columns))
		fields := make([]any, len(row))
		for i := range row {
			fields[i] = &row[i]
		}
		if err := rows.Scan(fields...); err != nil {
			return r, err
		}
		if r.Rows = append(r.Rows, row); len(r.Rows) == d.limit {
			cancel() // otherwise Close would read the other rows
			return r, nil
		}
	}
	return r, rows.Err()
}

// The errors of MySQL and MariaDB for text that the character set of a column cannot
// represent: illegal mixes of two, three and many collations, and characters that cannot be
// converted. A query that mixes columns of different character sets has the same errors.
var mysqlCharsetErrors = []uint16{1267, 1270, 1271, 1366, 1977, 3988}

// pgUntranslatable is the SQLSTATE untranslatable_character. It concerns the key, or a row
// that cannot be represented in UTF-8.
const pgUntranslatable = "22P05"

// cannotHold reports whether err means that the database cannot represent the key, so that no
// row has it. The same error may have a cause other than the key, so another query is made:
// one with another key must succeed (MySQL), or one with the key alone must fail (PostgreSQL).
func (d *DB[T]) cannotHold(ctx context.Context, key string, err error) bool {
	if text.IsASCII(key) {
		return false
	}
	if m, ok := errors.AsType[*mysql.MySQLError](err); ok && slices.Contains(mysqlCharsetErrors, m.Number) {
		_, _, err := d.query(ctx, AbsentKey)
		return err == nil
	}
	if untranslatable(err) {
		var null bool
		return untranslatable(d.db.QueryRowContext(ctx, "select $1::text is null", key).Scan(&null))
	}
	return false
}

func untranslatable(err error) bool {
	var state interface{ SQLState() string } // implemented by the driver of PostgreSQL
	return errors.As(err, &state) && state.SQLState() == pgUntranslatable
}

// SameRows returns the same text for all keys that find the same rows in any database: those
// with the same values of the variables that the query has. A database that ignores case or
// blanks finds the same rows for more keys.
func (d *DB[T]) SameRows(key string) string {
	return fmt.Sprintf("%q", d.statement.arguments(key))
}
