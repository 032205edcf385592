package sqldb

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/go-sql-driver/mysql"
)

func (p place) explainMySQL(err error) error {
	if m, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return p.explainMySQLError(m, err)
	}
	cfg, parseErr := mysql.ParseDSN(p.dsn)
	if parseErr != nil {
		return err
	}
	host := ""
	if cfg.TLS != nil {
		host = cfg.TLS.ServerName
	}
	server := p.server("MySQL server", host, cfg.Addr, err)
	switch {
	case errors.Is(err, mysql.ErrNoTLS):
		return cause(err, "set ssl_cert and ssl_key at the server", "the server has no TLS, which the parameter tls in %s demands", p.key)
	case errors.Is(err, mysql.ErrUnknownPlugin), errors.Is(err, mysql.ErrOldPassword), errors.Is(err, mysql.ErrNativePassword):
		return cause(err, "give the user a password of caching_sha2_password or mysql_native_password",
			"the driver does not support the authentication plugin of the user %q", cfg.User)
	case errors.Is(err, mysql.ErrCleartextPassword):
		return cause(err, "give the user another plugin, or add allowCleartextPasswords=true and tls=true to the DSN",
			"the authentication plugin of the user %q needs the password in clear text", cfg.User)
	case errors.Is(err, mysql.ErrMalformPkt), errors.Is(err, mysql.ErrPktSync), errors.Is(err, mysql.ErrPktSyncMul), errors.Is(err, mysql.ErrOldProtocol):
		return cause(err, "correct the port in "+p.key, "the server at %s does not speak the protocol of MySQL", cfg.Addr)
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, mysql.ErrInvalidConn):
		return cause(err, "read the log of the MySQL server there, or correct the port in "+p.key,
			"the server at %s closes the connection without an answer", cfg.Addr)
	case errors.Is(err, context.DeadlineExceeded) || isConnect(err):
		return explainNetwork(server, err)
	}
	return err
}

// The errors of MySQL and MariaDB (MariaDB documentation, "MariaDB Error Code Reference").
const (
	mysqlTooManyConnections = 1040
	mysqlDatabaseDenied     = 1044
	mysqlAccessDenied       = 1045
	mysqlNoDatabase         = 1046
	mysqlUnknownDatabase    = 1049
	mysqlUnknownColumn      = 1054
	mysqlSyntax             = 1064
	mysqlHostBlocked        = 1129
	mysqlHostDenied         = 1130
	mysqlTableDenied        = 1142
	mysqlColumnDenied       = 1143
	mysqlNoTable            = 1146
	mysqlUserLimit          = 1203
	mysqlResourceLimit      = 1226
	mysqlOldClient          = 1251
	mysqlNoPassword         = 1698
	mysqlInsecureTransport  = 3159
	mariadbNeedsTLS         = 4151 // ER_ACCESS_DENIED_ERROR3: no plugin of the user was satisfied
)

func (p place) explainMySQLError(m *mysql.MySQLError, err error) error {
	said := clean(m.Message)
	step := ""
	switch m.Number {
	case mysqlAccessDenied:
		step = p.password()
		if p.secret {
			step = "write the current user and password into " + p.file
		}
	case mysqlNoPassword:
		return cause(err, "create another user with a password for postern, and write it into "+p.key,
			"that user may log in over the Unix socket only, as the system user of the same name (unix_socket): %s", said)
	case mariadbNeedsTLS:
		step = p.password()
	case mysqlDatabaseDenied, mysqlTableDenied, mysqlColumnDenied:
		step = "grant the user select on the table"
	case mysqlUnknownDatabase, mysqlNoDatabase:
		step = "correct the database at the end of the DSN in " + p.key
	case mysqlNoTable:
		step = "correct the table in the query, or the database in " + p.key
	case mysqlUnknownColumn:
		step = "correct the column in the query"
	case mysqlSyntax:
		step = "correct the query"
	case mysqlHostBlocked:
		step = "run mariadb-admin flush-hosts at the server"
	case mysqlHostDenied:
		step = "create the user for that host, as in: create user 'postern'@'HOST' identified by 'PASSWORD'"
	case mysqlTooManyConnections, mysqlUserLimit, mysqlResourceLimit:
		step = "raise the limit at the server, or lower connections"
	case mysqlOldClient:
		step = "give the user a password of caching_sha2_password or mysql_native_password"
	case mysqlInsecureTransport:
		step = "add the parameter tls=true to the DSN in " + p.key
	default:
		return err
	}
	return cause(err, step, "the server refuses (error %d): %s", m.Number, said)
}
