package sql

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
	"postern/server/auth"
)

// Config is a table [[auth.stores]] of kind "sql".
type Config struct {
	// Driver says which database it is: "postgres", "mysql" (MariaDB, too) or
	// "sqlite".
	Driver Driver `toml:"driver"`

	// DSN says where the database is, in the form of its driver, and holds no
	// password. (hosts, user, dbname)
	DSN string `toml:"dsn"`

	// DSNFile is a file with the DSN on its one line, for those with a
	// password. It must not be readable by everybody. (password)
	DSNFile string `toml:"dsn_file"`

	// Path is the file of an SQLite database; absolute.
	Path string `toml:"path"`

	// Query yields the row of a user; see [Query]. (query)
	Query Query `toml:"query"`

	// Connections are open at once at most.
	Connections int `toml:"connections"`

	// IdleTime is how long a connection that nobody needs is kept.
	IdleTime time.Duration `toml:"idle_time"`
}

// Defaults returns the values that apply where the table says nothing.
func Defaults() Config {
	return Config{Connections: 8, IdleTime: time.Minute}
}

// Validate reports each value that makes no sense, with its key relative to the
// table.
func (c *Config) Validate(bad func(key, why string)) {
	switch c.Driver {
	case "":
		bad("driver", `is missing: write "postgres", "mysql" (for MariaDB, too) or "sqlite"`)
	case SQLite:
		c.validateFile(bad)
	default:
		c.validateServer(bad)
	}
	switch {
	case c.Query.text == "":
		bad("query", `is missing: write one such as "select password, username from mailbox where username = {user}"`)
	case !c.Query.mayName():
		bad("query", "must yield the name of the user, too: "+nameIt)
	}
	if c.Connections < 1 || c.Connections > 1000 {
		bad("connections", "must be between 1 and 1000, and less than what the database allows")
	}
	if c.IdleTime <= 0 {
		bad("idle_time", `must be more than nothing: write a duration such as "1m", or leave the key out`)
	}
}

func (c *Config) validateFile(bad func(key, why string)) {
	if !filepath.IsAbs(c.Path) {
		bad("path", `must be an absolute path such as "/var/lib/mail/users.sqlite"; the service does not run in the folder that you stand in`)
	}
	if c.DSN != "" {
		bad("dsn", "is for databases with a server: write the file into path, and remove dsn")
	}
	if c.DSNFile != "" {
		bad("dsn_file", "is for databases with a server: write the file into path, and remove dsn_file")
	}
}

func (c *Config) validateServer(bad func(key, why string)) {
	if c.Path != "" {
		bad("path", `is for driver = "sqlite": write dsn or dsn_file instead`)
	}
	switch {
	case c.DSN == "" && c.DSNFile == "":
		bad("dsn", "is missing: write "+c.Driver.example()+`, or name a file with it in dsn_file, if it holds a password`)
	case c.DSN != "" && c.DSNFile != "":
		bad("dsn_file", "stands beside dsn: remove one of the two")
	case c.DSNFile != "" && !filepath.IsAbs(c.DSNFile):
		bad("dsn_file", "must be an absolute path; the service does not run in the folder that you stand in")
	case holdsPassword(c.DSN):
		bad("dsn", "holds a password, which everybody who may read this file can see: write it into a file of mode 0640, and name that in dsn_file")
	}
}

// What passwords look like in a URL or a MySQL DSN, where they may hold anything,
// and in key=value pairs.
var passwordForms = regexp.MustCompile(`^[^/?(]*(://)?[^/?(@]*:[^/?(@]+@|^[^:@(]+:/?[^/].*@([a-z0-9]*\(|/)|(?i)password\s*=`)

func holdsPassword(dsn string) bool { return passwordForms.MatchString(dsn) }

// A Driver is a kind of database.
type Driver string

// The drivers. The program must know the package of each one:
// github.com/jackc/pgx/v5/stdlib, github.com/go-sql-driver/mysql,
// modernc.org/sqlite.
const (
	Postgres Driver = "postgres"
	MySQL    Driver = "mysql"
	SQLite   Driver = "sqlite"
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

// registered is the name that the driver's package gives itself.
func (d Driver) registered() string {
	if d == Postgres {
		return "pgx"
	}
	return string(d)
}

func (d Driver) example() string {
	if d == MySQL {
		return `dsn = "postern@unix(/run/mysqld/mysqld.sock)/mail"`
	}
	return `dsn = "host=/run/postgresql user=postern dbname=mail"`
}

// folds says that the database compares names without regard to case and
// trailing blanks, unless its tables say otherwise.
func (d Driver) folds() bool { return d == MySQL }

// Open implements auth.BackendConfig. It reads DSNFile and does not connect.
func (c *Config) Open(env *auth.Env) (auth.Backend, error) { return New(*c, env.Checker) }

// Location implements auth.BackendConfig.
func (c *Config) Location() string {
	return string(c.Driver) + " " + cmp.Or(c.Path, c.DSNFile, c.DSN)
}

// Access implements auth.BackendConfig. It reads the DSN as its driver does. An
// error in it is reported by Open.
func (c *Config) Access(key func(string) string, list *access.List) {
	list.Read(key("path"), c.Path)
	list.Read(key("dsn_file"), c.DSNFile)
	from, dsn := key("dsn"), c.DSN
	if c.DSNFile != "" {
		from = key("dsn_file")
		dsn, _ = auth.ReadSecretFile(c.DSNFile)
	}
	switch c.Driver {
	case Postgres:
		accessOfPostgres(from, dsn, list)
	case MySQL:
		if parsed, err := mysql.ParseDSN(dsn); err == nil && parsed.Net == "tcp" {
			list.Connect(from, parsed.Addr)
		}
	}
}

// postgresFile matches the files that a DSN names, as a URL or as key=value.
var postgresFile = regexp.MustCompile(`(?:sslrootcert|sslcert|sslkey|passfile|servicefile)\s*=\s*(?:'([^']+)'|([^'&\s]+))`)

func accessOfPostgres(key, dsn string, list *access.List) {
	for _, m := range postgresFile.FindAllStringSubmatch(dsn, -1) {
		if path, err := url.PathUnescape(m[1] + m[2]); err == nil {
			list.Read(key, path)
		}
	}
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
