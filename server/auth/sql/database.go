package sql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"

	"postern/internal/text"
	"postern/server/auth"
)

// connectTime bounds each connect. Package database/sql opens some connections without the
// ctx of a login.
const connectTime = 10 * time.Second

// maxIdle is none for a file: opening it is cheap, and a file that has replaced it must be
// used at once.
func (c *Config) maxIdle() int {
	if c.Driver == SQLite {
		return -1
	}
	return c.Connections
}

func newConnector(cfg Config) (driver.Connector, error) {
	if cfg.Driver == SQLite {
		// mode=ro: a missing file is not created.
		u := url.URL{Scheme: "file", Path: cfg.Path, RawQuery: "mode=ro&_pragma=busy_timeout(5000)"}
		return sqliteConnector(u.String()), nil
	}
	dsn := cfg.DSN
	if cfg.DSNFile != "" {
		text, err := auth.ReadSecretFile(cfg.DSNFile)
		if err != nil {
			return nil, fmt.Errorf("dsn_file: %w", err)
		}
		dsn = text
	}
	if cfg.Driver == Postgres {
		dsn = inUTF8(dsn)
	}
	c, err := connectorOf(cfg.Driver, dsn)
	if err == nil {
		err = checkDSN(c)
	}
	switch {
	case err != nil && cfg.DSNFile != "":
		// The driver's error may quote the DSN with its password.
		return nil, fmt.Errorf("dsn_file: the driver cannot parse the DSN in %s; write it as in: %s", cfg.DSNFile, cfg.Driver.example())
	case err != nil:
		return nil, fmt.Errorf("dsn: %w", err)
	}
	return bounded{c}, checkParameters(dsn)
}

// inUTF8 sets the encoding of the connection to PostgreSQL. Its default is the encoding of the
// database, in which a login in UTF-8 could be another name.
func inUTF8(dsn string) string {
	const setting = "client_encoding=UTF8"
	switch {
	case strings.Contains(dsn, "client_encoding"):
		return dsn
	case !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://"):
		return dsn + " " + setting
	case strings.Contains(dsn, "?"):
		return dsn + "&" + setting
	}
	return dsn + "?" + setting
}

// connectorOf returns the connector of the driver of a server.
func connectorOf(d Driver, dsn string) (driver.Connector, error) {
	if d == Postgres {
		return stdlib.GetDefaultDriver().(driver.DriverContext).OpenConnector(dsn)
	}
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	cfg.Logger = &mysql.NopLogger{} // instead of stderr: the same errors are returned
	return mysql.NewConnector(cfg)
}

// checkDSN parses the DSN, which some drivers do at the first connect only. ctx has ended, so
// no connection is made.
func checkDSN(c driver.Connector) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	conn, err := c.Connect(ctx)
	if err == nil {
		return conn.Close()
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// checkParameters refuses the settings with which a driver would insert the login into the
// text of the statement.
func checkParameters(dsn string) error {
	for _, setting := range []string{"interpolateparams=true", "interpolateparams=1", "simple_protocol"} {
		if strings.Contains(strings.ToLower(dsn), setting) {
			return fmt.Errorf("dsn: with %s a login would become part of the statement; remove it", setting)
		}
	}
	return nil
}

// bounded is a connector with a time limit for each connect.
type bounded struct{ driver.Connector }

// Connect implements driver.Connector.
func (b bounded) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	return b.Connector.Connect(ctx)
}

// A sqliteConnector is the connector of an SQLite DSN; the driver has none.
type sqliteConnector string

// Connect implements driver.Connector.
func (s sqliteConnector) Connect(context.Context) (driver.Conn, error) {
	return new(sqlite.Driver).Open(string(s))
}

// Driver implements driver.Connector.
func (sqliteConnector) Driver() driver.Driver { return new(sqlite.Driver) }

// The errors of MySQL and MariaDB for text that the character set of a column cannot
// represent: illegal mixes of two, three and many collations, and characters that cannot be
// converted. A query that mixes columns of different character sets has the same errors.
var mysqlCharsetErrors = []uint16{1267, 1270, 1271, 1366, 1977, 3988}

// pgUntranslatable is the SQLSTATE untranslatable_character. It concerns the login, or a row
// that cannot be represented in UTF-8.
const pgUntranslatable = "22P05"

// cannotHold reports whether err means that the database cannot represent the login, so that
// there is no such user. The same error may have a cause other than the login, so another
// query is made: one with another login must succeed (MySQL), or one with the login alone
// must fail (PostgreSQL).
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
	var state interface{ SQLState() string } // implemented by the driver of PostgreSQL
	return errors.As(err, &state) && state.SQLState() == pgUntranslatable
}
