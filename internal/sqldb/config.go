package sqldb

import (
	"cmp"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"

	"postern/internal/access"
	"postern/internal/fileperm"
)

// Config is the address of a database, and the limits of its connections. The names in
// parentheses are those of Postfix's mysql_table(5) and pgsql_table(5).
type Config struct {
	// Driver is the kind of database: "postgres", "mysql" (for MariaDB, too) or
	// "sqlite".
	Driver Driver `toml:"driver"`

	// DSN is the address of the database in the syntax of its driver, without a
	// password. (hosts, user, dbname)
	DSN string `toml:"dsn"`

	// DSNFile is a file with the DSN on its only line, which may have a password. The
	// file must not be readable for others. (password)
	DSNFile string `toml:"dsn_file"`

	// Path is the absolute path of an SQLite database.
	Path string `toml:"path"`

	// Connections is the maximum number of connections.
	Connections int `toml:"connections"`

	// IdleTime is how long an unused connection is kept open.
	IdleTime time.Duration `toml:"idle_time"`
}

// Defaults returns the values of keys that the configuration leaves out.
func Defaults() Config {
	return Config{Connections: 8, IdleTime: time.Minute}
}

// Validate calls bad for each value that is not valid, with its key.
func (c *Config) Validate(bad func(key, why string)) {
	switch c.Driver {
	case "":
		bad("driver", `is missing: write "postgres", "mysql" (for MariaDB, too) or "sqlite"`)
	case SQLite:
		c.validateFile(bad)
	default:
		c.validateServer(bad)
	}
	if c.Connections < 1 || c.Connections > 1000 {
		bad("connections", "must be between 1 and 1000, and below the limit of the database")
	}
	if c.IdleTime <= 0 {
		bad("idle_time", `must be positive; write a duration such as "1m", or leave the key out`)
	}
}

func (c *Config) validateFile(bad func(key, why string)) {
	if !filepath.IsAbs(c.Path) {
		bad("path", `must be an absolute path such as "/var/lib/mail/users.sqlite"; the service does not run in your current directory`)
	}
	if c.DSN != "" {
		bad("dsn", "is for databases with a server; write the file into path, and remove dsn")
	}
	if c.DSNFile != "" {
		bad("dsn_file", "is for databases with a server; write the file into path, and remove dsn_file")
	}
}

func (c *Config) validateServer(bad func(key, why string)) {
	if c.Path != "" {
		bad("path", `is for driver = "sqlite"; write dsn or dsn_file instead`)
	}
	switch {
	case c.DSN == "" && c.DSNFile == "":
		bad("dsn", "is missing: write "+c.Driver.example()+`, or set dsn_file to a file with it, if it has a password`)
	case c.DSN != "" && c.DSNFile != "":
		bad("dsn_file", "cannot be combined with dsn; remove one of the two")
	case c.DSNFile != "" && !filepath.IsAbs(c.DSNFile):
		bad("dsn_file", "must be an absolute path; the service does not run in your current directory")
	case passwordForms.MatchString(c.DSN):
		bad("dsn", "contains a password, which every reader of this file can see; write the DSN into a file of mode 0640, and set dsn_file to it")
	}
}

// passwordForms matches passwords in a URL or a MySQL DSN, where they may have any
// characters, and in key=value pairs.
var passwordForms = regexp.MustCompile(`^[^/?(]*(://)?[^/?(@]*:[^/?(@]+@|^[^:@(]+:/?[^/].*@([a-z0-9]*\(|/)|(?i)password\s*=`)

// A Driver is a kind of database.
type Driver string

// The drivers.
const (
	Postgres Driver = "postgres" // github.com/jackc/pgx
	MySQL    Driver = "mysql"    // github.com/go-sql-driver/mysql
	SQLite   Driver = "sqlite"   // modernc.org/sqlite
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Driver) UnmarshalText(text []byte) error {
	switch v := Driver(text); v {
	case Postgres, MySQL, SQLite:
		*d = v
		return nil
	}
	return fmt.Errorf(`%q is not a driver; write "postgres", "mysql" (for MariaDB, too) or "sqlite"`, text)
}

func (d Driver) example() string {
	if d == MySQL {
		return `dsn = "postern@unix(/run/mysqld/mysqld.sock)/mail"`
	}
	return `dsn = "host=/run/postgresql user=postern dbname=mail"`
}

// dsnKey returns the key with the DSN, or the empty text for a file.
func (c *Config) dsnKey() string {
	switch {
	case c.DSNFile != "":
		return "dsn_file"
	case c.DSN != "":
		return "dsn"
	}
	return ""
}

// Location returns where the database is, for messages to the administrator.
func (c *Config) Location() string {
	return string(c.Driver) + " " + cmp.Or(c.Path, c.DSNFile, c.DSN)
}

// Access adds the files and hosts that the database needs to list. key returns the full name
// of a key. It reads the DSN as its driver does. An error in it is reported by [Open].
func (c *Config) Access(key func(string) string, list *access.List) {
	list.ReadAs(fileperm.Private, key("path"), c.Path)
	list.ReadAs(fileperm.Secret, key("dsn_file"), c.DSNFile)
	from, dsn := key("dsn"), c.DSN
	if c.DSNFile != "" {
		from = key("dsn_file")
		dsn, _ = fileperm.ReadSecretLine(c.DSNFile)
	}
	switch c.Driver {
	case Postgres:
		accessOfPostgres(from, encodeUserinfo(dsn), list)
	case MySQL:
		if parsed, err := mysql.ParseDSN(dsn); err == nil && parsed.Net == "tcp" {
			list.Connect(from, parsed.Addr)
		}
	}
}

// postgresFile matches the files in a DSN, which is a URL or key=value pairs.
var postgresFile = regexp.MustCompile(`(sslrootcert|sslcert|sslkey|passfile|servicefile)\s*=\s*(?:'([^']+)'|([^'&\s]+))`)

// postgresFiles adds the files in a DSN to list. passfile and servicefile may have a password.
func postgresFiles(key, dsn string, list *access.List) {
	for _, m := range postgresFile.FindAllStringSubmatch(dsn, -1) {
		kind := fileperm.Public
		if m[1] == "sslkey" || m[1] == "passfile" || m[1] == "servicefile" {
			kind = fileperm.Secret
		}
		if path, err := url.PathUnescape(m[2] + m[3]); err == nil {
			list.ReadAs(kind, key, path)
		}
	}
}

func accessOfPostgres(key, dsn string, list *access.List) {
	postgresFiles(key, dsn, list)
	parsed, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return
	}
	hosts := []*pgconn.FallbackConfig{{Host: parsed.Host, Port: parsed.Port}}
	for _, h := range append(hosts, parsed.Fallbacks...) {
		if network, address := pgconn.NetworkAddress(h.Host, h.Port); network == "tcp" {
			list.Connect(key, address)
		}
	}
}
