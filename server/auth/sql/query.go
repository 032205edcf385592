package sql

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"postern/internal/sqldb"
	"postern/internal/text"
	"postern/server/auth"
	"postern/server/auth/hash"
)

// Config is a table [[auth.stores]] of kind "sql".
type Config struct {
	sqldb.Config // where the database is: Location and Access are its methods

	// Query returns the row of a user; see [Query]. (query)
	Query Query `toml:"query"`

	// Rows is how many rows the query may return for a login, for users with several
	// passwords, such as one for each device.
	Rows int `toml:"rows"`

	// UnknownUserHash is the kind of the hash with which the password of an unknown user is
	// compared. Without it that is the most common kind of the users that have been looked
	// up since the start.
	UnknownUserHash hash.Kind `toml:"unknown_user_hash"`
}

var _ auth.BackendConfig = (*Config)(nil)

// Defaults returns the values of keys that the table leaves out.
func Defaults() Config { return Config{Config: sqldb.Defaults(), Rows: 1} }

// maxRows bounds Rows: a login with a wrong password costs as many hashes.
const maxRows = 16

// Validate implements auth.BackendConfig.
func (c *Config) Validate(bad func(key, why string)) {
	c.Config.Validate(bad)
	if c.Rows < 1 || c.Rows > maxRows {
		bad("rows", fmt.Sprintf("must be between 1 and %d; every refused login costs as many hashes", maxRows))
	}
	switch {
	case c.Query.String() == "":
		bad("query", `is missing: write one such as "select password, username from mailbox where username = {user}"`)
	case !naming.MatchString(c.Query.String()):
		bad("query", "must return the name of the user, too: "+addUsername)
	}
}

// naming matches queries that may return the column username: by its name, or with columns
// that are defined elsewhere.
var naming = regexp.MustCompile(`(?i)username|\*|^\s*call\s`)

// Open implements auth.BackendConfig. It reads DSNFile and does not connect.
func (c *Config) Open(env *auth.Env) (auth.Backend, error) { return New(*c, env.Fold, env.Checker) }

// A Query is one statement that returns the row of a user. Its variables are {user}, which is
// the login, {local} and {domain}.
type Query struct{ sqldb.Query }

// UnmarshalText implements encoding.TextUnmarshaler.
func (q *Query) UnmarshalText(text []byte) (err error) {
	q.Query, err = sqldb.ParseQuery(string(text), sqldb.Key{Variable: "user", Noun: "login", Column: "username"})
	return err
}

// A row is one row of the result of the query for a user.
type row struct {
	hash     string // without the blanks of a CHAR column; empty: no password
	username string // canonical
	login    string // as the table spells it; empty: like username
	disabled bool
}

// The names of the columns after the first one, which is the hash under any name.
const (
	columnUsername = "username"
	columnDisabled = "disabled"
	columnLogin    = "login"
)

// addUsername is the next step for a query without the column username.
const addUsername = "add it as the second column, as in the table, such as: select password, name as " + columnUsername

// maxName is the longest name of a user, in bytes.
const maxName = 1024

// readRows returns the rows of a login, all of one user. An error is a mistake in the query or
// the table.
func readRows(r sqldb.Result, most int) ([]row, error) {
	if err := checkColumns(r.Columns); err != nil {
		return nil, err
	}
	var rows []row
	for _, values := range r.Rows {
		found, err := scan(values, r.Columns)
		if err != nil {
			return nil, err
		}
		rows = append(rows, *found)
	}
	for _, found := range rows {
		if found.username != rows[0].username {
			return nil, fmt.Errorf("the query returns rows of different users for a login, %q and %q; change it so that it finds one user",
				rows[0].username, found.username)
		}
	}
	if len(rows) > most {
		return nil, tooManyRows(most)
	}
	return rows, nil
}

func tooManyRows(most int) error {
	if most == 1 {
		return fmt.Errorf("the query returns more than one row for a login; change it so that it finds one, "+
			"or set rows if users have several passwords (at most %d)", maxRows)
	}
	return fmt.Errorf("the query returns more than %d rows for a login, the value of rows; change it so that it finds fewer, or raise rows (at most %d)", most, maxRows)
}

// checkColumns returns an error if the columns are not those that the package comment
// describes.
func checkColumns(columns []string) error {
	if len(columns) == 0 {
		return errors.New("the query returns no column; the first one must be the hash of the password")
	}
	named := false
	for i, column := range columns {
		switch strings.ToLower(column) {
		case columnUsername:
			named = true
			if i == 0 {
				return fmt.Errorf("the first column is %q; the query must return the hash of the password first", column)
			}
		case columnDisabled, columnLogin:
		default:
			if i > 0 {
				return fmt.Errorf("the column %q is unknown; after the hash the query may return %s, %s and %s only",
					column, columnUsername, columnDisabled, columnLogin)
			}
		}
	}
	if !named {
		return errors.New("the query does not return the name of the user; " + addUsername)
	}
	return nil
}

// scan reads the values of a row.
func scan(values sqldb.Row, columns []string) (*row, error) {
	stored, err := values.Text(0)
	if err != nil {
		return nil, err
	}
	found := &row{hash: hash.Trim(stored)}
	var disabled any = false
	for i, column := range columns[1:] {
		switch i++; strings.ToLower(column) {
		case columnDisabled:
			disabled = values[i]
		case columnLogin:
			found.login, err = values.Text(i)
		default:
			found.username, err = values.Text(i)
		}
		if err != nil {
			return nil, err
		}
	}
	if !text.ValidName(found.username, maxName) {
		return nil, fmt.Errorf("the column %s has no valid user name", columnUsername)
	}
	found.disabled, err = truth(disabled)
	return found, err
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
	return false, fmt.Errorf("the column %s is neither true nor false; let the query compute one of them, such as: coalesce(active, 0) = 0 as %[1]s", columnDisabled)
}
