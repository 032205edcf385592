package sqldb

import (
	"cmp"
	"context"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"

	"postern/internal/access"
	"postern/internal/fileperm"
	"postern/internal/pemfile"
)

// connectTime bounds each connect. Package database/sql opens some connections without the
// ctx of a query.
const connectTime = 10 * time.Second

// maxIdle is none for a file: opening it is cheap, and a file that has replaced it must be
// used at once.
func (c *Config) maxIdle() int {
	if c.Driver == SQLite {
		return -1
	}
	return c.Connections
}

// newConnector returns the connector of a database. noun is that of [Key].
func newConnector(cfg Config, noun string) (driver.Connector, error) {
	if cfg.Driver == SQLite {
		if err := checkFile(cfg.Path); err != nil {
			return nil, fmt.Errorf("path: %w", err)
		}
		// mode=ro: a missing file is not created.
		u := url.URL{Scheme: "file", Path: cfg.Path, RawQuery: "mode=ro&_pragma=busy_timeout(5000)"}
		return sqliteConnector(u.String()), nil
	}
	dsn := cfg.DSN
	if cfg.DSNFile != "" {
		line, err := fileperm.ReadSecretLine(cfg.DSNFile)
		if err != nil {
			return nil, fmt.Errorf("dsn_file: %w", err)
		}
		dsn = line
	}
	if cfg.Driver == Postgres {
		dsn = encodeUserinfo(dsn)
		if err := checkFiles(dsn); err != nil {
			return nil, err
		}
	}
	key := cmp.Or(cfg.dsnKey(), "dsn")
	c, err := connectorOf(cfg.Driver, dsn)
	if err == nil {
		err = checkDSN(c)
	}
	if err != nil {
		// The driver's error may quote the DSN with its password.
		return nil, fmt.Errorf("%s: %w", key, cfg.Driver.explainDSN(dsn))
	}
	return bounded{c}, checkParameters(dsn, noun)
}

// checkFile checks an SQLite database, and the files beside it from which SQLite takes changes
// that are not in the database yet (https://www.sqlite.org/tempfiles.html). The driver opens
// them by their names for each query, so this is done when the store is opened.
func checkFile(path string) error {
	var all []error
	for _, suffix := range []string{"", "-wal", "-journal", "-shm"} {
		all = append(all, fileperm.Check(path+suffix, fileperm.Private))
	}
	return errors.Join(all...)
}

// checkFiles checks the files in a DSN of PostgreSQL, which the driver opens. Of the file of
// authorities, the driver skips without an error what it does not understand.
func checkFiles(dsn string) error {
	list := new(access.List)
	postgresFiles("", dsn, list)
	var all []error
	for _, f := range list.Reads {
		all = append(all, fileperm.Check(f.Path, f.Kind))
	}
	return errors.Join(append(all, checkAuthorities(dsn))...)
}

// checkAuthorities returns an error for a file in sslrootcert from which the driver would not
// read all certificates.
func checkAuthorities(dsn string) error {
	for _, m := range postgresFile.FindAllStringSubmatch(dsn, -1) {
		path, err := url.PathUnescape(m[2] + m[3])
		if m[1] != "sslrootcert" || err != nil || path == "system" { // the authorities of the system
			continue
		}
		pool, warnings, err := pemfile.ReadAuthorities(path)
		if err != nil {
			return fmt.Errorf("sslrootcert: %w", err)
		}
		if len(warnings) == 0 {
			continue
		}
		text, err := os.ReadFile(path) // its size has been checked
		if err != nil {
			return fmt.Errorf("sslrootcert: %w", err)
		}
		drivers := x509.NewCertPool()
		if drivers.AppendCertsFromPEM(text); !drivers.Equal(pool) {
			return fmt.Errorf("sslrootcert: %s", warnings[0])
		}
	}
	return nil
}

// inUTF8 sets the encoding of the connection to PostgreSQL. Its default is the encoding of the
// database, in which a key in UTF-8 could be another name.
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
		dsn = inUTF8(dsn)
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

// checkParameters refuses the settings with which a driver would insert the key into the text
// of the statement.
func checkParameters(dsn, noun string) error {
	for _, setting := range []string{"interpolateparams=true", "interpolateparams=1", "simple_protocol"} {
		if strings.Contains(strings.ToLower(dsn), setting) {
			return fmt.Errorf("dsn: with %s a %s would become part of the statement; remove it", setting, noun)
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
