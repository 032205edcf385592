package sql

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"postern/internal/text"
)

// A Query is one statement that returns the row of a user. It has variables for the login:
//
//	{user}    the login
//	{local}   the part before its last "@", all of it if there is none
//	{domain}  the part after it, or an empty text
//
// They are values and not text, and so without quotes: each becomes a parameter of the
// statement, which is sent to the database separately. The client's input is never part of
// the text of a statement.
type Query struct{ text string }

var (
	variable = regexp.MustCompile(`\{[a-z_]+\}`)

	// naming matches queries that may return the column username: by its name, or with
	// columns that are defined elsewhere.
	naming = regexp.MustCompile(`(?i)username|\*|^\s*call\s`)

	// quoted matches a variable next to a quote.
	quoted = regexp.MustCompile("['\"`]\\s*\\{[a-z_]+\\}|\\{[a-z_]+\\}\\s*['\"`]")
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (q *Query) UnmarshalText(text []byte) error {
	s := string(text)
	named := false
	for _, v := range variable.FindAllString(s, -1) {
		switch v {
		case "{user}", "{local}":
			named = true
		case "{domain}":
		default:
			return fmt.Errorf("there is no variable %s; the variables are {user}, {local} and {domain}", v)
		}
	}
	if !named {
		return fmt.Errorf("the query is the same for every user; write {user} in place of the login, such as: where username = {user}")
	}
	if found := quoted.FindString(s); found != "" {
		return fmt.Errorf("%q is inside quotes; remove them, since a variable is a parameter and not text", found)
	}
	*q = Query{s}
	return nil
}

func (q Query) String() string { return q.text }

// A statement is a query in the syntax of one driver, with the variable of each parameter.
type statement struct {
	text       string
	parameters []string
}

// translate makes a parameter of every occurrence of a variable, since PostgreSQL derives
// the type of a parameter from its position.
func (q Query) translate(d Driver) statement {
	var s statement
	s.text = variable.ReplaceAllStringFunc(q.text, func(v string) string {
		s.parameters = append(s.parameters, v)
		return d.placeholder(len(s.parameters))
	})
	return s
}

func (d Driver) placeholder(n int) string {
	switch d {
	case Postgres:
		return "$" + strconv.Itoa(n)
	case SQLite:
		return "?" + strconv.Itoa(n)
	}
	return "?"
}

// arguments returns the values of the parameters.
func (s statement) arguments(login string) []any {
	local, domain := login, ""
	if at := strings.LastIndexByte(login, '@'); at >= 0 {
		local, domain = login[:at], login[at+1:]
	}
	parts := map[string]string{"{user}": login, "{local}": local, "{domain}": domain}
	arguments := make([]any, len(s.parameters))
	for i, p := range s.parameters {
		arguments[i] = parts[p]
	}
	return arguments
}

// A row is the result of the query for a user.
type row struct {
	hash     string // empty: no password
	username string // canonical
	disabled bool
}

// The names of the columns after the first one, which is the hash under any name.
const (
	columnUsername = "username"
	columnDisabled = "disabled"
)

// addUsername is the next step for a query without the column username.
const addUsername = "add it as the second column, as in the table, such as: select password, name as " + columnUsername

// maxName is the longest name of a user, in bytes.
const maxName = 1024

// A mistake is an error of the query or the table. Repeating the query does not help.
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
		cancel() // otherwise Close would read the other rows
		return nil, mistake("the query returns more than one row for a login; change it so that it finds one user")
	}
	return found, rows.Err()
}

// checkColumns returns an error if the columns are not those that the package comment
// describes.
func checkColumns(columns []string) error {
	if len(columns) == 0 {
		return mistake("the query returns no column; the first one must be the hash of the password")
	}
	named := false
	for i, column := range columns {
		switch strings.ToLower(column) {
		case columnUsername:
			named = true
			if i == 0 {
				return mistakef("the first column is %q; the query must return the hash of the password first", column)
			}
		case columnDisabled:
		default:
			if i > 0 {
				return mistakef("the column %q is unknown; after the hash the query may return %s and %s only", column, columnUsername, columnDisabled)
			}
		}
	}
	if !named {
		return mistake("the query does not return the name of the user; " + addUsername)
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
		return nil, mistakef("the column %s has no valid user name", columnUsername)
	}
	off, err := truth(disabled)
	return &row{hash: hash.String, username: username.String, disabled: off}, err
}

// truth parses the booleans of the databases. NULL is an error.
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
	return false, mistakef("the column %s is neither true nor false; let the query compute one of them, such as: coalesce(active, 0) = 0 as %[1]s", columnDisabled)
}
