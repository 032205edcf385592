package sql

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"postern/internal/text"
)

// A row is what the query says about a user.
type row struct {
	hash     string // empty: no password
	username string // canonical
	disabled bool
}

// The names of the columns behind the first one, which is the hash whatever its
// name.
const (
	columnUsername = "username"
	columnDisabled = "disabled"
)

// nameIt is what to do about a query without a name in its row.
const nameIt = "add it as the second column, as the table has it, such as: select password, name as " + columnUsername

// maxName is the longest name of a user, in bytes.
const maxName = 1024

// A mistake in the query or the table is what only people can mend: to ask again
// is of no use.
type mistake string

func (m mistake) Error() string { return string(m) }

func mistakef(format string, args ...any) error { return mistake(fmt.Sprintf(format, args...)) }

// lookup returns the row of a login, or nil if there is none.
func (s *Store) lookup(ctx context.Context, login string) (*row, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rows, err := s.db.QueryContext(ctx, s.statement.text, s.statement.arguments(login)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	if err := checkColumns(columns); err != nil {
		return nil, err
	}
	if !rows.Next() {
		return nil, rows.Err()
	}
	found, err := scan(rows, columns)
	if err != nil {
		return nil, err
	}
	if rows.Next() {
		cancel() // or Close would read them all
		return nil, mistake("the query yields more than one row for a login; make it name one user")
	}
	return found, rows.Err()
}

// checkColumns sees to it that the query means what it says.
func checkColumns(columns []string) error {
	if len(columns) == 0 {
		return mistake("the query yields no column; the first one has to be the hash of the password")
	}
	named := false
	for i, column := range columns {
		switch strings.ToLower(column) {
		case columnUsername:
			named = true
			if i == 0 {
				return mistakef("the first column is %q; the query has to yield the hash of the password first", column)
			}
		case columnDisabled:
		default:
			if i > 0 {
				return mistakef("the column %q means nothing here; behind the hash there are %s and, if you like, %s", column, columnUsername, columnDisabled)
			}
		}
	}
	if !named {
		return mistake("the query does not yield the name of the user; " + nameIt)
	}
	return nil
}

// scan reads the current row.
func scan(rows *sql.Rows, columns []string) (*row, error) {
	var hash, username sql.NullString
	var disabled any = false
	fields := []any{&hash}
	for _, column := range columns[1:] {
		if strings.EqualFold(column, columnUsername) {
			fields = append(fields, &username)
		} else {
			fields = append(fields, &disabled)
		}
	}
	if err := rows.Scan(fields...); err != nil {
		return nil, err
	}
	if !text.ValidName(username.String, maxName) {
		return nil, mistakef("the column %s holds no name for a user", columnUsername)
	}
	off, err := truth(disabled)
	return &row{hash: hash.String, username: username.String, disabled: off}, err
}

// truth reads what databases have for yes and no. NULL is neither.
func truth(value any) (bool, error) {
	switch v := value.(type) {
	case bool:
		return v, nil
	case int64:
		return v != 0, nil
	case []byte:
		value = string(v)
	}
	if text, ok := value.(string); ok {
		if yes, err := strconv.ParseBool(text); err == nil {
			return yes, nil
		}
	}
	return false, mistakef("the column %s holds neither true nor false; let the query compute one of them, such as: coalesce(active, 0) = 0 as %[1]s", columnDisabled)
}
