package sqldb

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// encodeUserinfo encodes what would end the user or the password in the URL of a PostgreSQL
// database: question marks and number signs, which libpq accepts there (PostgreSQL, "Connection
// URIs"), and "@", which no host has.
func encodeUserinfo(dsn string) string {
	scheme, rest, ok := cutScheme(dsn)
	authority, _, _ := strings.Cut(rest, "/")
	at := strings.LastIndexByte(authority, '@')
	if !ok || at < 0 {
		return dsn
	}
	return scheme + strings.NewReplacer("?", "%3F", "#", "%23", "@", "%40").Replace(rest[:at]) + rest[at:]
}

// cutScheme returns the scheme of the URL of a PostgreSQL database, with "://".
func cutScheme(dsn string) (scheme, rest string, ok bool) {
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(dsn, scheme); ok {
			return scheme, rest, true
		}
	}
	return "", dsn, false
}

// form is how a DSN is written.
func (d Driver) form() string {
	if d == MySQL {
		return "write USER:PASSWORD@tcp(HOST:3306)/DATABASE or USER:PASSWORD@unix(/run/mysqld/mysqld.sock)/DATABASE"
	}
	return "write host=HOST user=USER password=PASSWORD dbname=DATABASE or postgres://USER:PASSWORD@HOST/DATABASE"
}

var (
	otherScheme = regexp.MustCompile(`^[a-z][a-z0-9+.:-]*://|^jdbc:`)
	mysqlForm   = regexp.MustCompile(`@(tcp|unix)\(`)
	pairsForm   = regexp.MustCompile(`(^|\s)(host|user|dbname)\s*=`)
	mysqlHost   = regexp.MustCompile(`@[A-Za-z0-9.\[\]-][A-Za-z0-9.:\[\]-]*(/|$)`)
)

// explainDSN returns why the driver cannot parse a DSN, and its form. It quotes nothing of the
// DSN, which may have a password.
func (d Driver) explainDSN(dsn string) error {
	if d == MySQL {
		return explainMySQLDSN(dsn)
	}
	return explainPostgresDSN(dsn)
}

func explainMySQLDSN(dsn string) error {
	cause := "the DSN does not have the form of MySQL"
	switch {
	case otherScheme.MatchString(dsn):
		cause = "the DSN is a URL, which the driver of MySQL does not read"
	case pairsForm.MatchString(dsn):
		cause = "the DSN has the form of PostgreSQL"
	case mysqlForm.MatchString(dsn) && !strings.Contains(dsn, ")/"):
		cause = "the DSN has no /DATABASE after the parenthesis"
	case mysqlHost.MatchString(dsn):
		cause = "the DSN names a host without its protocol, tcp(HOST:3306)"
	case strings.Contains(dsn, "?"):
		cause = "the DSN has a parameter that the driver of MySQL does not know"
	case !strings.Contains(dsn, "/"):
		cause = "the DSN has no /DATABASE"
	}
	return fmt.Errorf("%s; %s", cause, MySQL.form())
}

func explainPostgresDSN(dsn string) error {
	_, rest, isURL := cutScheme(dsn)
	switch {
	case isURL && oddPassword(rest):
		return errors.New("a character in the user or the password of the URL has another meaning there; " +
			"write it with its number (%25 for %, %2F for /, %40 for @, %3A for :)")
	case mysqlForm.MatchString(dsn):
		return fmt.Errorf("the DSN has the form of MySQL; %s", Postgres.form())
	case !isURL && otherScheme.MatchString(dsn):
		return fmt.Errorf("the DSN is a URL of another database; %s", Postgres.form())
	case !isURL && !strings.Contains(dsn, "="):
		return fmt.Errorf("the DSN has no KEY=VALUE; %s", Postgres.form())
	case !isURL && strings.Count(dsn, "'")%2 != 0:
		return errors.New(`a quote in the DSN is not closed; write ' and \ in a password as \' and \\, and the password in quotes`)
	}
	return fmt.Errorf("the DSN has a key or a value that the driver of PostgreSQL does not know; %s", Postgres.form())
}

// oddPassword reports whether the user or the password in a URL, which begins with rest after
// the scheme, is not encoded: it has a slash or a percent sign.
func oddPassword(rest string) bool {
	authority := rest
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority = rest[:end]
	}
	at := strings.LastIndex(authority, "@")
	if at < 0 {
		return strings.Contains(authority, ":") && strings.Contains(rest, "@")
	}
	_, err := url.PathUnescape(authority[:at])
	return err != nil
}
