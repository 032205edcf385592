package test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"postern/internal/sqldb"
	passwords "postern/server/auth/hash"
	sqlstore "postern/server/auth/sql"
	"postern/test/kit"
)

// A database is a private server or a file.
type database struct {
	driver sqldb.Driver
	server *daemon // nil for a file
	dsn    string  // of the administrator, over TCP; the path of a file
	socket string  // DSN over the socket; empty for a file
}

// startPostgres starts a PostgreSQL as the user postgres: it refuses to run as root.
func startPostgres(t *testing.T) *database {
	t.Helper()
	bin := postgresFolder()
	if bin == "" {
		bin = "postgres" // does not exist
	}
	peer(t, "root", filepath.Join(bin, "initdb"))
	dir, port := folderOf(t, "postgres"), kit.Port(t)
	data := filepath.Join(dir, "data")
	run(t, "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups",
		filepath.Join(bin, "initdb"), "-D", data, "-U", "postern", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	db := &database{driver: sqldb.Postgres}
	db.dsn = fmt.Sprintf("host=127.0.0.1 port=%d user=postern dbname=postgres sslmode=disable", port)
	db.socket = fmt.Sprintf("host=%s port=%d user=postern dbname=postgres", dir, port)
	db.server = startDaemon(t, dir, daemon{
		args: []string{"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", filepath.Join(bin, "postgres"), "-D", data,
			"-c", "listen_addresses=127.0.0.1", "-p", fmt.Sprint(port), "-c", "unix_socket_directories=" + dir, "-c", "fsync=off"},
		stops: "INT", // does not wait for clients
		ready: func() bool { return db.ping() == nil },
	})
	return db
}

// postgresFolder returns the programs of the newest installed version.
func postgresFolder() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

func startMariaDB(t *testing.T) *database {
	t.Helper()
	peer(t, "root", "mariadbd", "mariadb-install-db")
	dir, port := folderOf(t, "mysql"), kit.Port(t)
	data, socket := filepath.Join(dir, "data"), filepath.Join(dir, "socket")
	run(t, "mariadb-install-db", "--no-defaults", "--user=mysql", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
	db := &database{driver: sqldb.MySQL}
	db.dsn = fmt.Sprintf("root@tcp(127.0.0.1:%d)/mysql", port)
	db.server = startDaemon(t, dir, daemon{
		args: []string{"mariadbd", "--no-defaults", "--user=mysql", "--datadir=" + data, "--socket=" + socket, "--bind-address=127.0.0.1",
			fmt.Sprintf("--port=%d", port), "--pid-file=" + filepath.Join(dir, "pid"), "--innodb-flush-log-at-trx-commit=0"},
		stops: "TERM",
		ready: func() bool { return db.ping() == nil },
	})
	db.exec(t, "create database mail")
	db.dsn, db.socket = strings.Replace(db.dsn, "/mysql", "/mail", 1), "root@unix("+socket+")/mail"
	return db
}

func newSQLite(t *testing.T) *database {
	return &database{driver: sqldb.SQLite, dsn: filepath.Join(t.TempDir(), "users.sqlite")}
}

// folderOf makes a folder that belongs to a user.
func folderOf(t *testing.T, name string) string {
	t.Helper()
	owner, err := user.Lookup(name)
	kit.Must(t, err)
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	dir := kit.OpenDir(t)
	kit.Must(t, os.Chown(dir, uid, gid))
	return dir
}

func run(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
}

// open connects as the administrator.
func (d *database) open() (*sql.DB, error) {
	name := string(d.driver)
	if d.driver == sqldb.Postgres {
		name = "pgx"
	}
	return sql.Open(name, d.dsn)
}

func (d *database) ping() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	db, err := d.open()
	if err != nil {
		return err
	}
	defer db.Close()
	return db.PingContext(ctx)
}

func (d *database) exec(t *testing.T, statements ...string) {
	t.Helper()
	db, err := d.open()
	kit.Must(t, err)
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// checks opens a store with the query; dsn is for databases with a server.
func (d *database) checks(t *testing.T, dsn, query string) storeChecks {
	t.Helper()
	return d.checksOfRows(t, dsn, query, 1)
}

func (d *database) checksOfRows(t *testing.T, dsn, query string, rows int) storeChecks {
	t.Helper()
	cfg := sqlstore.Defaults()
	cfg.Driver, cfg.DSN, cfg.Rows = d.driver, dsn, rows
	if d.driver == sqldb.SQLite {
		cfg.DSN, cfg.Path = "", d.dsn
	}
	set(t, &cfg.Query, query)
	return d.checksWith(t, cfg)
}

func (d *database) checksWith(t *testing.T, cfg sqlstore.Config) storeChecks {
	t.Helper()
	cfg.Validate(func(key, why string) { t.Errorf("%s: %s", key, why) })
	store, err := sqlstore.New(cfg, "", passwords.NewChecker(time.Minute))
	kit.Must(t, err)
	t.Cleanup(func() { store.Close() })
	if err := store.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	return storeChecks{store: store, server: d.server, user: "alice@example.org", wrong: "wrong password", nobody: "no such user"}
}

// eachDatabase runs a test with every kind of database in parallel.
func eachDatabase(t *testing.T, test func(*testing.T, *database)) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *database{"postgres": startPostgres, "mysql": startMariaDB, "sqlite": newSQLite} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t))
		})
	}
}

func TestSQL(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *database) {
		secret, changed := hashOf(t, "secret"), hashOf(t, "changed")
		d.exec(t, "create table accounts (name varchar(255) primary key, hash varchar(255), active boolean)",
			"insert into accounts values ('alice@example.org', '"+secret+"', true)",
			"insert into accounts values ('carol@example.org', '"+secret+"', true)",
			"insert into accounts values ('bob@example.org', '"+secret+"', false)",
			"insert into accounts values ('locked@example.org', '!"+secret+"', true)",
			"insert into accounts values ('none@example.org', null, true)",
			"insert into accounts values ('clear@example.org', 'secret', true)",
		)
		checks := d.checks(t, d.socket, "select hash, name as username, not active as disabled from accounts where name = {user}")
		checks.all(t)
		for login, want := range map[string]string{
			"bob@example.org":    "account disabled",
			"locked@example.org": "wrong password",
			"none@example.org":   "wrong password",
			"clear@example.org":  "temporary",
			"carol@example.org":  "ok carol@example.org",
		} {
			checks.want(t, login, "secret", want)
		}
		d.exec(t, "update accounts set hash = '"+changed+"' where name = 'carol@example.org'")
		checks.want(t, "carol@example.org", "secret", "wrong password")
		checks.want(t, "carol@example.org", "changed", "ok carol@example.org")
	})
}

// A user may have a row for each device, in a column that pads hashes with blanks.
func TestSQLPasswordsPerDevice(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *database) {
		d.exec(t, "create table passwords (name varchar(255), hash char(120), active boolean)",
			"insert into passwords values ('alice@example.org', '"+hashOf(t, "secret")+"', true)",
			"insert into passwords values ('alice@example.org', '{SSHA256}IvWpoYH9p1MaBzL1kn4Rfyljxr+O6YR5177QRkS+mvmdubOG', true)",
			"insert into passwords values ('alice@example.org', '"+hashOf(t, "lost")+"', false)",
			"insert into passwords values ('bob@example.org', '!', true)",
			"insert into passwords values ('carol@example.org', '{ROT13}frperg', true)",
		)
		cfg := sqlstore.Defaults()
		cfg.Driver, cfg.DSN, cfg.Rows = d.driver, d.socket, 3
		if d.driver == sqldb.SQLite {
			cfg.DSN, cfg.Path = "", d.dsn
		}
		set(t, &cfg.Query, "select hash, name as username, not active as disabled from passwords where name = {user}")
		checks := d.checksWith(t, cfg)
		checks.want(t, "alice@example.org", "secret", "ok alice@example.org")
		checks.want(t, "alice@example.org", "secret12", "ok alice@example.org")
		checks.want(t, "alice@example.org", "lost", "account disabled")
		checks.want(t, "alice@example.org", "wrong", "wrong password")
		checks.want(t, "bob@example.org", "secret", "wrong password")
		checks.want(t, "carol@example.org", "secret", "temporary")
		d.exec(t, "insert into passwords values ('alice@example.org', '!', true)")
		checks.want(t, "alice@example.org", "secret", "temporary")
	})
}

// hashOf returns a hash that is quick to verify.
func hashOf(t *testing.T, password string) string {
	t.Helper()
	out, err := exec.Command("openssl", "passwd", "-1", "-salt", "postern", password).Output()
	kit.Must(t, err)
	return strings.TrimSpace(string(out))
}

// MariaDB finds a name by many spellings: all of them are the same user.
func TestSQLSpellings(t *testing.T) {
	t.Parallel()
	d := startMariaDB(t)
	d.exec(t, "create table accounts (name varchar(255) primary key, hash varchar(255)) character set utf8mb4",
		"insert into accounts values ('alice@example.org', '"+hashOf(t, "secret")+"')")
	checks := d.checks(t, d.dsn, "select hash, name as username from accounts where name = {user}")
	for _, login := range []string{"ALICE@example.org", "\u00e0lice@example.org", "alice@example.org "} {
		checks.want(t, login, "secret", "ok alice@example.org")
	}
	cfg := sqlstore.Defaults()
	cfg.Driver, cfg.DSN = d.driver, d.dsn
	set(t, &cfg.Query, "select hash from accounts where name = {user}")
	store, err := sqlstore.New(cfg, "", passwords.NewChecker(time.Minute))
	kit.Must(t, err)
	defer store.Close()
	checks.store = store
	checks.want(t, "alice@example.org", "secret", "temporary")
	if err := store.Check(t.Context()); err == nil {
		t.Error("check reports no error")
	}
}

// A name that the character set of a column cannot represent belongs to no user; one that
// it can represent is found.
func TestSQLCharacterSets(t *testing.T) {
	const umlaut, cyrillic = "\u00e4lice@example.org", "\u0430\u043b\u0438\u0441\u0430@example.org"
	secret := hashOf(t, "secret")
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		d := startMariaDB(t)
		d.exec(t, "create table accounts (name varchar(255) primary key, hash varchar(255)) character set latin1",
			"insert into accounts values ('"+umlaut+"', '"+secret+"')")
		for _, where := range []string{"name = {user}", "concat(name, '') = lower({user})", "{user} in (name, concat(name, ''))"} {
			checks := d.checks(t, d.dsn, "select hash, name as username from accounts where "+where)
			checks.want(t, umlaut, "secret", "ok "+umlaut)
			checks.want(t, cyrillic, "secret", "no such user")
		}
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		d := startPostgres(t)
		d.exec(t, "create database latin encoding 'LATIN1' template template0 locale 'C'")
		reader := strings.Replace(d.dsn, "dbname=postgres", "dbname=latin", 1)
		d.dsn = reader + " client_encoding=UTF8"
		d.exec(t, "create table accounts (name varchar(255) primary key, hash varchar(255))",
			"insert into accounts values ('"+umlaut+"', '"+secret+"')")
		checks := d.checks(t, reader, "select hash, name as username from accounts where name = {user}")
		checks.want(t, umlaut, "secret", "ok "+umlaut)
		checks.want(t, cyrillic, "secret", "no such user")
	})
}

// The DSN with a password is read from a file, and no error contains the password.
func TestSQLPassword(t *testing.T) {
	t.Parallel()
	d := startMariaDB(t)
	d.exec(t, "create table accounts (name varchar(255) primary key, hash varchar(255))",
		"insert into accounts values ('alice@example.org', '"+hashOf(t, "secret")+"')",
		"create user reader identified by 'topsecret'", "grant select on accounts to reader")
	cfg := sqlstore.Defaults()
	cfg.Driver, cfg.DSNFile = d.driver, filepath.Join(t.TempDir(), "dsn")
	set(t, &cfg.Query, "select hash, name as username from accounts where name = {user}")
	dsn := strings.Replace(d.dsn, "root", "reader:topsecret", 1)
	writeSecret(t, cfg.DSNFile, dsn)
	d.checksWith(t, cfg).want(t, "alice@example.org", "secret", "ok alice@example.org")

	writeSecret(t, cfg.DSNFile, strings.Replace(dsn, "topsecret", "topsecret2", 1))
	store, err := sqlstore.New(cfg, "", passwords.NewChecker(time.Minute))
	kit.Must(t, err)
	defer store.Close()
	if err := store.Check(t.Context()); err == nil || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("another password: %v", err)
	}
	for driver, dsn := range map[sqldb.Driver]string{sqldb.MySQL: "reader:topsecret@tcp(db", sqldb.Postgres: "postgres://reader:topsecret@db:port/mail"} {
		cfg.Driver = driver
		writeSecret(t, cfg.DSNFile, dsn)
		if _, err := sqlstore.New(cfg, "", nil); err == nil || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

func writeSecret(t *testing.T, path, text string) {
	t.Helper()
	kit.Must(t, os.WriteFile(path, []byte(text+"\n"), 0o600))
}

// Every query of docs/sql/README.md works with its tables in every database.
func TestSQLExamples(t *testing.T) {
	examples := readExamples(t)
	if len(examples) < 6 {
		t.Fatalf("only %d examples in the documentation", len(examples))
	}
	eachDatabase(t, func(t *testing.T, d *database) {
		secret := hashOf(t, "secret")
		for _, e := range examples {
			tables := strings.ReplaceAll(e.tables, "HASH", secret)
			if d.driver == sqldb.MySQL {
				tables = strings.ReplaceAll(tables, `"`, "`")
			}
			statements := strings.Split(tables, ";")
			d.exec(t, statements[:len(statements)-1]...)
			checks := d.checksOfRows(t, d.dsn, e.queryFor(d.driver), e.rows)
			checks.goodAndBad(t)
			checks.hostileNames(t)
			checks.want(t, "bob@example.org", "secret", "account disabled")
			checks.want(t, "bob@example.org", "wrong", "wrong password")
			checks.want(t, "alice@example.net", "secret", "no such user")
			checks.want(t, "alice", "secret", "no such user")
			if e.rows > 1 {
				checks.want(t, "alice@example.org", "phone", "ok alice@example.org")
			}
			if t.Failed() {
				t.Fatal(e.name)
			}
			for _, table := range createTable.FindAllStringSubmatch(tables, -1) {
				d.exec(t, "drop table "+table[1]) // other examples have one of the same name
			}
		}
	})
}

var createTable = regexp.MustCompile(`create table (\S+)`)

// An example is a section of the documentation.
type example struct {
	name, tables string
	rows         int
	query        map[string]string // by driver; "" for all
}

func (e example) queryFor(d sqldb.Driver) string {
	if q, ok := e.query[string(d)]; ok {
		return q
	}
	return e.query[""]
}

// readExamples returns the sections that have a query.
func readExamples(t *testing.T) (all []example) {
	t.Helper()
	text, err := os.ReadFile("../docs/sql/README.md")
	kit.Must(t, err)
	for section := range strings.SplitSeq(string(text), "\n## ") {
		name, _, _ := strings.Cut(section, "\n")
		e := example{name: name, rows: 1, query: make(map[string]string)}
		tables := fenced(section, "sql")
		for _, block := range fenced(section, "toml") {
			var table struct {
				Driver, Query string
				Rows          int
			}
			if _, err := toml.Decode(block, &table); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if table.Query != "" {
				e.query[table.Driver], e.rows = table.Query, max(e.rows, table.Rows)
			}
		}
		if len(tables) == 1 && len(e.query) > 0 {
			e.tables = tables[0]
			all = append(all, e)
		}
	}
	return all
}

// fenced returns the code blocks in a language.
func fenced(text, language string) (blocks []string) {
	for {
		_, rest, ok := strings.Cut(text, "\n```"+language+"\n")
		if !ok {
			return blocks
		}
		block, after, _ := strings.Cut(rest, "\n```")
		blocks, text = append(blocks, block+"\n"), after
	}
}
