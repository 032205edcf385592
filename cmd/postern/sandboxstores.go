package main

import (
	"net/url"
	"regexp"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"

	"postern/server/auth"
	"postern/server/auth/sql"
)

// What the stores need of the sandbox. full makes a key of the file of one of
// the table. Unix sockets need nothing.

func (c *dovecotConfig) needs(full func(string) string, n *needs) {
	n.connect(full("path"), c.Path.String())
}

func (c *ldapConfig) needs(full func(string) string, n *needs) {
	for _, u := range c.ServerHost {
		n.connect(full("server_host"), u.String())
	}
	n.read(full("ca_file"), c.CAFile)
	n.read(full("bind_password_file"), c.BindPasswordFile)
}

func (c *pamConfig) needs(func(string) string, *needs) {}

func (c *saslauthdConfig) needs(func(string) string, *needs) {}

func (c *userfileConfig) needs(full func(string) string, n *needs) {
	n.read(full("path"), c.Path)
}

// needs reads the DSN, too, which only its driver understands. What is wrong
// with it is for the store to say.
func (c *sqlConfig) needs(full func(string) string, n *needs) {
	n.read(full("path"), c.Path)
	n.read(full("dsn_file"), c.DSNFile)
	key, dsn := full("dsn"), c.DSN
	if c.DSNFile != "" {
		key = full("dsn_file")
		dsn, _ = auth.ReadSecretFile(c.DSNFile)
	}
	switch c.Driver {
	case sql.Postgres:
		needsOfPostgres(key, dsn, n)
	case sql.MySQL:
		if parsed, err := mysql.ParseDSN(dsn); err == nil && parsed.Net == "tcp" {
			n.connect(key, parsed.Addr)
		}
	}
}

// postgresFile finds the files that a DSN names, as a URL or as key=value.
var postgresFile = regexp.MustCompile(`(?:sslrootcert|sslcert|sslkey|passfile|servicefile)\s*=\s*(?:'([^']+)'|([^'&\s]+))`)

func needsOfPostgres(key, dsn string, n *needs) {
	for _, m := range postgresFile.FindAllStringSubmatch(dsn, -1) {
		if path, err := url.PathUnescape(m[1] + m[2]); err == nil {
			n.read(key, path)
		}
	}
	parsed, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return
	}
	hosts := []*pgconn.FallbackConfig{{Host: parsed.Host, Port: parsed.Port}}
	for _, h := range append(hosts, parsed.Fallbacks...) {
		if network, address := pgconn.NetworkAddress(h.Host, h.Port); network == "tcp" {
			n.connect(key, address)
		}
	}
}
