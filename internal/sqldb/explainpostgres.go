package sqldb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"postern/internal/fileperm"
	"postern/internal/neterr"
)

// explainPostgres explains the error of one of the attempts of a connect: by default the driver
// tries each address with TLS and then without.
func (p place) explainPostgres(err error) error {
	if e := lastPgError(err); e != nil {
		return p.explainPgError(e, err)
	}
	connect, ok := errors.AsType[*pgconn.ConnectError](err)
	if !ok {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("the database does not answer the query in time: %w", err)
		}
		return err
	}
	cfg := connect.Config
	attempts := parts(connect.Unwrap())
	tried := attempts[len(attempts)-1]
	server := p.server("PostgreSQL server", cfg.Host, net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))), tried)
	server.CAKey = "sslrootcert in the DSN"
	if cfg.TLSConfig != nil && cfg.TLSConfig.RootCAs != nil {
		server.CAFile = parameter(p.dsn, "sslrootcert")
	}
	if strings.Contains(tried.Error(), "server refused TLS connection") {
		return cause(err, noTLSStep(cfg, p.key), "the server at %s has no TLS, which sslmode demands", server.Address)
	}
	if explained := explainNetwork(server, tried); explained != tried {
		e, ok := errors.AsType[*neterr.Error](explained)
		if !ok {
			return explained // of a Unix socket
		}
		return cause(err, e.Step, "%s", e.Cause)
	}
	return cause(err, "correct the port in "+p.key, "the server at %s does not speak the protocol of PostgreSQL (%s)", server.Address, clean(tried.Error()))
}

// noTLSStep depends on whether the connection leaves this machine.
func noTLSStep(cfg *pgconn.Config, key string) string {
	if ip := net.ParseIP(cfg.Host); cfg.Host == "localhost" || ip != nil && ip.IsLoopback() {
		return "write sslmode=disable into the DSN in " + key + ", which is safe on loopback"
	}
	return "set ssl = on at the server"
}

// parts returns the errors that err joins, or err itself.
func parts(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
		return joined.Unwrap()
	}
	return []error{err}
}

// lastPgError returns the answer of the server to the last attempt that had one.
func lastPgError(err error) (found *pgconn.PgError) {
	connect, ok := errors.AsType[*pgconn.ConnectError](err)
	if !ok {
		found, _ = errors.AsType[*pgconn.PgError](err)
		return found
	}
	for _, attempt := range parts(connect.Unwrap()) {
		if e, ok := errors.AsType[*pgconn.PgError](attempt); ok {
			found = e
		}
	}
	return found
}

// parameter returns the value of a key in a DSN, which is a URL or has pairs.
func parameter(dsn, key string) string {
	m := regexp.MustCompile(`\b` + key + `\s*=\s*'?([^'&\s]+)`).FindStringSubmatch(dsn)
	if m == nil {
		return ""
	}
	return m[1]
}

// noEntry matches the answer to a client that no line of pg_hba.conf is about.
var noEntry = regexp.MustCompile(`^no pg_hba\.conf entry for host "([^"]*)", user "([^"]*)", database "([^"]*)"(?:, (.*))?$`)

// explainPgError explains an answer of the server (PostgreSQL, appendix A, "Error Codes").
func (p place) explainPgError(e *pgconn.PgError, err error) error {
	said := clean(e.Message)
	step := ""
	switch e.Code {
	case "28P01": // invalid_password
		step = p.password()
		if _, _, isURL := cutScheme(p.dsn); isURL && strings.Contains(p.dsn, "%") {
			step += " (in a URL, % is written %25)"
		}
	case "28000": // invalid_authorization_specification
		return p.explainAuthorization(e, err)
	case "3D000": // invalid_catalog_name
		step = "correct the database in " + p.key
	case "42501": // insufficient_privilege
		step = "grant the user select on the table, and usage of its schema"
	case "53300": // too_many_connections
		step = "raise max_connections at the server, or lower connections"
	case "57P03", "57P01", "57P02": // cannot_connect_now, admin_shutdown, crash_shutdown
		step = "wait until the server has started"
	case "42P01", "3F000": // undefined_table, invalid_schema_name
		step = "correct the table in the query, or the database in " + p.key
	case "42703": // undefined_column
		step = "correct the column in the query; text is written in single quotes"
	case "42601", "42883", "42804", "42P18", "22P02": // syntax, operator, types
		step = "correct the query"
	default:
		return err
	}
	return cause(err, step, "the server refuses (SQLSTATE %s): %s", e.Code, said)
}

// explainAuthorization explains code 28000, which has many causes.
func (p place) explainAuthorization(e *pgconn.PgError, err error) error {
	said := clean(e.Message)
	if m := noEntry.FindStringSubmatch(e.Message); m != nil {
		line := fmt.Sprintf("host %s %s %s scram-sha-256", m[3], m[2], network(m[1]))
		if m[1] == "[local]" {
			line = fmt.Sprintf("local %s %s scram-sha-256", m[3], m[2])
		}
		step := fmt.Sprintf("add the line %q to pg_hba.conf, and reload the server", clean(line))
		if m[4] == "no encryption" && parameter(p.dsn, "sslmode") == "disable" {
			step = "remove sslmode=disable from the DSN if pg_hba.conf has a hostssl line, or " + step
		}
		return cause(err, step, "the server refuses (SQLSTATE %s): %s", e.Code, said)
	}
	step := "correct the user in " + p.key + ", or its line in pg_hba.conf"
	switch {
	case strings.Contains(e.Message, "does not exist"):
		step = "correct the user in " + p.key + ", or create it: create role NAME login"
	case strings.Contains(e.Message, "not permitted to log in"):
		step = "run alter role NAME login"
	case strings.Contains(e.Message, "Peer authentication"), strings.Contains(e.Message, "Ident authentication"):
		return cause(err, fmt.Sprintf("create a role %s for postern and write user=%[1]s, or write host=127.0.0.1 and a password, in %s", fileperm.UserName(os.Geteuid()), p.key),
			"the server accepts on this socket only the role with the name of the system user, %s (SQLSTATE %s: %s)", fileperm.UserName(os.Geteuid()), e.Code, said)
	case strings.Contains(e.Message, "pg_hba.conf rejects"):
		step = "change the line of pg_hba.conf that rejects it, and reload the server"
	}
	return cause(err, step, "the server refuses (SQLSTATE %s): %s", e.Code, said)
}

// network returns an address as pg_hba.conf has it.
func network(address string) string {
	switch ip := net.ParseIP(address); {
	case ip == nil:
		return address
	case ip.To4() != nil:
		return address + "/32"
	}
	return address + "/128"
}
