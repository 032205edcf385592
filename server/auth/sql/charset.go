package sql

import (
	"context"
	"errors"
	"slices"

	"github.com/go-sql-driver/mysql"

	"postern/internal/text"
)

// What MySQL and MariaDB answer to text that the character set of a column
// cannot hold: illegal mixes of two, three and many collations, and characters
// that cannot be converted. A query that mixes its own columns badly gets the
// same.
var mysqlCharsetErrors = []uint16{1267, 1270, 1271, 1366, 1977, 3988}

// pgUntranslatable is the SQLSTATE untranslatable_character. PostgreSQL means the
// login by it, or a row that has no form in UTF-8.
const pgUntranslatable = "22P05"

// cannotHold reports whether err says that the login has characters which the
// database has no form for. Then nobody is called so. Since the same code may
// stand for a mistake that has nothing to do with the login, the database is
// asked once more: it has to be content without that login (MySQL), or
// discontent with nothing but it (PostgreSQL).
func (s *Store) cannotHold(ctx context.Context, login string, err error) bool {
	if text.IsASCII(login) {
		return false
	}
	if m, ok := errors.AsType[*mysql.MySQLError](err); ok && slices.Contains(mysqlCharsetErrors, m.Number) {
		_, err := s.lookup(ctx, checkLogin)
		return err == nil
	}
	if untranslatable(err) {
		var null bool
		return untranslatable(s.db.QueryRowContext(ctx, "select $1::text is null", login).Scan(&null))
	}
	return false
}

func untranslatable(err error) bool {
	var state interface{ SQLState() string } // of PostgreSQL's driver
	return errors.As(err, &state) && state.SQLState() == pgUntranslatable
}
