package sqldb

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"

	"postern/internal/fileperm"
	"postern/internal/neterr"
	"postern/internal/text"
)

// A place is where a database is, in the words of the configuration.
type place struct {
	driver Driver
	key    string // dsn or dsn_file; path for a file
	file   string // dsn_file, or the file of an SQLite database
	secret bool   // the DSN comes from a file and may have a password

	dsn string // for its parameters; may have a password
}

func (c *Config) place() place {
	p := place{driver: c.Driver, key: cmp.Or(c.dsnKey(), "path"), file: cmp.Or(c.Path, c.DSNFile), secret: c.DSNFile != "", dsn: c.DSN}
	if c.DSNFile != "" {
		p.dsn, _ = fileperm.ReadSecretLine(c.DSNFile) // Open has read it
	}
	return p
}

// cause returns an error with the cause of err and the next step.
func cause(err error, step, format string, args ...any) error {
	return &neterr.Error{Cause: fmt.Sprintf(format, args...), Step: step, Err: err}
}

// explain adds the cause and the next step to the error of a connect or a query. The text of an
// error that it does not know is that of the database.
func (p place) explain(err error) error {
	switch p.driver {
	case SQLite:
		return p.explainSQLite(err)
	case MySQL:
		return p.explainMySQL(err)
	}
	return p.explainPostgres(err)
}

// password is the next step after a refused password.
func (p place) password() string {
	if p.secret {
		return "write the current password into " + p.file
	}
	return "write the DSN with the password into a file of mode 0640, and set dsn_file to it"
}

// server returns the server for the errors of the network. address is that of the DSN.
func (p place) server(name, host, address string, err error) neterr.Server {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Addr != nil {
		address = op.Addr.String()
	}
	return neterr.Server{Name: name, Address: address, AddressKey: p.key, Host: host}
}

// maxText bounds the text of a database, in bytes.
const maxText = 300

func clean(s string) string { return text.Shorten(text.Printable(s, ' '), maxText) }

// explainNetwork explains an error of the connection. The phase follows from the error, since
// the drivers do everything in one call.
func explainNetwork(s neterr.Server, err error) error {
	phase := neterr.Reply
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" || isDNS(err) {
		phase = neterr.Dial
	} else if isTLS(err) {
		phase = neterr.Handshake
	}
	return s.Explain(phase, err)
}

func isDNS(err error) bool {
	_, ok := errors.AsType[*net.DNSError](err)
	return ok
}

// isTLS reports whether err comes from package tls or x509.
func isTLS(err error) bool {
	return strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), "x509: ")
}

// isConnect reports whether err is one of the connect, and not of a query.
func isConnect(err error) bool {
	_, pg := errors.AsType[*pgconn.ConnectError](err)
	_, op := errors.AsType[*net.OpError](err)
	return pg || op || isDNS(err) || isTLS(err) || errors.Is(err, mysql.ErrInvalidConn)
}
