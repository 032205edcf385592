package test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/test/kit"
)

// startDirectories starts the directory and the databases that the cases name, once for all of
// them, and returns their placeholders.
func startDirectories(t *testing.T, cases []*brokenCase) map[string]string {
	t.Helper()
	values := make(map[string]string)
	uses := func(name string) bool {
		for _, c := range cases {
			if strings.Contains(c.config+fmt.Sprint(c.fixtures), "{{"+name) {
				return true
			}
		}
		return false
	}
	if uses("slapd") {
		s := startSlapd(t)
		values["slapd"], values["slapds"], values["slapdca"] = slapdAddress(s), s.tls, filepath.Join(s.dir, "ca.pem")
	}
	if uses("postgres") {
		breakPostgres(t, values)
	}
	if uses("mariadb") {
		breakMariaDB(t, values)
	}
	return values
}

// slapdAddress returns HOST:PORT of an OpenLDAP without TLS.
func slapdAddress(s *slapd) string { return strings.TrimPrefix(s.url, "ldap://") }

// breakPostgres starts a PostgreSQL with the database mail and the user reader, whose password
// is "topsecret". Other users have no line in pg_hba.conf over TCP, and need the system user of
// their name on the socket.
func breakPostgres(t *testing.T, values map[string]string) {
	t.Helper()
	db := startPostgres(t)
	db.exec(t, "create database mail", "create role reader login password 'topsecret'")
	var data, port string
	kit.Must(t, query(db, "show data_directory", &data))
	kit.Must(t, query(db, "show port", &port))
	write(t, filepath.Join(data, "pg_hba.conf"), `
host all postern 127.0.0.1/32 trust
host all reader 127.0.0.1/32 scram-sha-256
host all nobody-knows 127.0.0.1/32 trust
local all all peer
`)
	db.exec(t, "select pg_reload_conf()")
	kit.Eventually(t, "the new pg_hba.conf", func() bool {
		refused := &database{driver: db.driver, dsn: strings.Replace(db.dsn, "user=postern", "user=stranger", 1)}
		err := refused.ping()
		return err != nil && strings.Contains(err.Error(), "no pg_hba.conf entry")
	})
	db.dsn = strings.Replace(db.dsn, "dbname=postgres", "dbname=mail", 1)
	db.exec(t, "create table accounts (name text primary key, hash text)", "grant select on accounts to reader", "create table private (name text, hash text)")
	values["postgres"], values["postgresport"], values["postgressocket"] = "host=127.0.0.1 port="+port, port, filepath.Dir(data)
}

func query(d *database, statement string, to any) error {
	db, err := d.open()
	if err != nil {
		return err
	}
	defer db.Close()
	return db.QueryRow(statement).Scan(to)
}

// breakMariaDB starts a MariaDB with the database mail and the user reader, whose password is
// "topsecret"; root may log in over the socket only.
func breakMariaDB(t *testing.T, values map[string]string) {
	t.Helper()
	db := startMariaDB(t)
	values["mariadb"] = strings.TrimSuffix(strings.TrimPrefix(db.dsn, "root@"), "/mail")
	values["mariadbaddress"] = strings.TrimSuffix(strings.TrimPrefix(values["mariadb"], "tcp("), ")")
	db.exec(t, "create table accounts (name varchar(255) primary key, hash varchar(255))",
		"create user reader identified by 'topsecret'", "grant select on mail.accounts to reader",
		"create user elsewhere@'192.0.2.1' identified by 'topsecret'",
		"create user socketonly@'localhost' identified via unix_socket")
}

// directoryFixtures start an OpenLDAP of their own, and make SQLite databases.
var directoryFixtures = map[string]fixture{
	// slapd KIND: an OpenLDAP with a certificate of a kind: own.HOST:PORT {{own}}, {{owns}}, {{ownca}}
	"slapd": func(t *testing.T, s *setup, args []string) {
		issue := map[string]func(dir string){
			"name":        func(dir string) { issueFor(t, dir, kit.Certificate{Hosts: []string{"ldap.example.org"}}) },
			"expired":     func(dir string) { issueFor(t, dir, kit.Certificate{NotAfter: time.Now().Add(-30 * time.Minute)}) },
			"common-name": func(dir string) { issueCommonName(t, dir) },
		}[args[0]]
		format := fmt.Sprintf
		if args[0] == "no-tls" {
			format = func(conf string, values ...any) string {
				return "#" + strings.ReplaceAll(fmt.Sprintf(conf, values...), "\nTLS", "\n#TLS")
			}
		}
		if args[0] == "demands-tls" {
			issue = func(dir string) { issueFor(t, dir, kit.Certificate{}) }
			format = func(conf string, values ...any) string {
				return strings.Replace(fmt.Sprintf(conf, values...), "database mdb", "security simple_bind=128\ndatabase mdb", 1)
			}
		}
		d := startSlapdWith(t, format, issue)
		s.values["own"], s.values["owns"], s.values["ownca"] = slapdAddress(d), d.tls, filepath.Join(d.dir, "ca.pem")
	},
	// port-of HOST:PORT: {{listen2port}} is the port
	"port-of": func(_ *testing.T, s *setup, args []string) {
		_, s.values["listen2port"], _ = strings.Cut(args[0], ":")
	},
	// sqlite-file NAME: a database with a table of accounts. "sqlite-wal NAME": in WAL mode, in the
	// folder of root
	"sqlite-file": func(t *testing.T, s *setup, args []string) {
		makeSQLite(t, s.file(args[0]), "delete")
		kit.Own(t, s.file(args[0]))
	},
	"sqlite-wal": func(t *testing.T, s *setup, args []string) {
		kit.Must(t, os.Mkdir(filepath.Dir(s.file(args[0])), 0o755))
		makeSQLite(t, s.file(args[0]), "wal")
		kit.Must(t, os.Chown(s.file(args[0]), 0, kit.Nobody))
	},
}

func issueFor(t *testing.T, dir string, c kit.Certificate) {
	t.Helper()
	certPEM, keyPEM := c.SignedBy(t, kit.NewCA(t, dir))
	write(t, filepath.Join(dir, "cert.pem"), string(certPEM))
	write(t, filepath.Join(dir, "key.pem"), string(keyPEM))
}

// issueCommonName makes a certificate as old tutorials do.
func issueCommonName(t *testing.T, dir string) {
	t.Helper()
	run(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
		"-subj", "/CN=ldap.example.org", "-keyout", filepath.Join(dir, "key.pem"), "-out", filepath.Join(dir, "cert.pem"))
	text, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	kit.Must(t, err)
	write(t, filepath.Join(dir, "ca.pem"), string(text))
}

func makeSQLite(t *testing.T, path, journal string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	kit.Must(t, err)
	defer db.Close()
	for _, s := range []string{"pragma journal_mode=" + journal, "create table accounts (name text primary key, hash text)"} {
		_, err := db.Exec(s)
		kit.Must(t, err)
	}
	kit.Must(t, os.Chmod(path, 0o640))
}
