package sql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"postern/server/auth"
)

// connectTime bounds each connect. Package sql makes some of them apart from
// any login, with nobody to give them up.
const connectTime = 10 * time.Second

// openDatabase connects to nobody yet.
func openDatabase(cfg Config) (*sql.DB, error) {
	c, err := newConnector(cfg)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(cfg.Connections)
	db.SetMaxIdleConns(cfg.maxIdle())
	db.SetConnMaxIdleTime(cfg.IdleTime)
	return db, nil
}

// maxIdle is none for a file: to open it takes little, and who replaces it by
// another one wants that to be seen.
func (c *Config) maxIdle() int {
	if c.Driver == SQLite {
		return -1
	}
	return c.Connections
}

func newConnector(cfg Config) (driver.Connector, error) {
	if cfg.Driver == SQLite {
		return connectorOf(cfg.Driver, fileDSN(cfg.Path))
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
		err = parsed(c)
	}
	switch {
	case err != nil && cfg.DSNFile != "" && !errors.As(err, new(*noDriverError)):
		// The error may quote what it cannot read.
		return nil, fmt.Errorf("dsn_file: the driver cannot read the DSN in %s; it looks like this: %s", cfg.DSNFile, cfg.Driver.example())
	case err != nil:
		return nil, fmt.Errorf("dsn: %w", err)
	}
	return bounded{c}, interpolates(dsn)
}

// inUTF8 asks PostgreSQL to speak UTF-8. By itself it speaks as the database
// stores, and takes a login for another name where that is not UTF-8.
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

// fileDSN opens for reading only: a file that is not there is not made.
func fileDSN(path string) string {
	u := url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro&_pragma=busy_timeout(5000)"}
	return u.String()
}

// A noDriverError means that the program was built without the driver.
type noDriverError struct{ err error }

func (e *noDriverError) Error() string {
	return "this program cannot speak to the database: " + e.err.Error()
}
func (e *noDriverError) Unwrap() error { return e.err }

// connectorOf finds a driver by the name under which it is registered.
func connectorOf(d Driver, dsn string) (driver.Connector, error) {
	db, err := sql.Open(d.registered(), dsn)
	if err != nil && strings.Contains(err.Error(), "unknown driver") {
		return nil, &noDriverError{err}
	}
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if c, ok := db.Driver().(driver.DriverContext); ok {
		return c.OpenConnector(dsn)
	}
	return simple{db.Driver(), dsn}, nil
}

// parsed makes a driver read its DSN, which some of them do when they connect
// for the first time. That attempt is over before it begins.
func parsed(c driver.Connector) error {
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

// interpolates finds the settings with which a driver would put the login into
// the text of the statement, rather than send it apart.
func interpolates(dsn string) error {
	for _, setting := range []string{"interpolateparams=true", "interpolateparams=1", "simple_protocol"} {
		if strings.Contains(strings.ToLower(dsn), setting) {
			return fmt.Errorf("dsn: with %s a login would become part of the statement; remove it", setting)
		}
	}
	return nil
}

// bounded gives each connect a bound in time.
type bounded struct{ driver.Connector }

// Connect implements driver.Connector.
func (b bounded) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	return b.Connector.Connect(ctx)
}

// simple is the connector of a driver that has none.
type simple struct {
	driver driver.Driver
	dsn    string
}

// Connect implements driver.Connector.
func (s simple) Connect(context.Context) (driver.Conn, error) { return s.driver.Open(s.dsn) }

// Driver implements driver.Connector.
func (s simple) Driver() driver.Driver { return s.driver }
