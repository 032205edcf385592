package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"postern/internal/sqldb"
	"postern/test/kit"
)

func userfileCase(t *testing.T) storeCase {
	path := filepath.Join(kit.OpenDir(t), "users")
	write(t, path, "closed:!"+hash+"\n")
	setUserfilePassword(t, path, "alice", password)
	return storeCase{
		stores: fmt.Sprintf("mechanisms = %s\n[[auth.stores]]\nkind = \"userfile\"\npath = %q\n", ownMechanisms, path),
		user:   "alice", password: password, closed: "closed",
		mechanisms: []string{"SCRAM-SHA-256"},
	}
}

// ownMechanisms are all mechanisms that postern implements.
const ownMechanisms = `["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]`

// setUserfilePassword runs "postern passwd", which writes SCRAM keys.
func setUserfilePassword(t *testing.T, path, user, password string) {
	t.Helper()
	file, err := program()
	kit.Must(t, err)
	cmd := exec.Command(file, "passwd", "--stdin", "--scheme", "scram-sha-256", path, user)
	cmd.Stdin = strings.NewReader(password)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("postern passwd: %v\n%s", err, out)
	}
}

func saslauthdCase(t *testing.T) storeCase {
	services := kit.OpenDir(t)
	write(t, filepath.Join(services, "smtp"), "auth required pam_unix.so nodelay\naccount required pam_unix.so\n")
	d := startSaslauthd(t, fmt.Sprintf("mount --bind %s /etc/pam.d", services), "-a", "pam", "-n", "2")
	return storeCase{
		stores: fmt.Sprintf("[[auth.stores]]\nkind = \"saslauthd\"\npath = %q\n", d.socket()),
		user:   newUser(t, "sesame"), password: "sesame", closed: newUser(t, "sesame", "chage -E 2020-01-01"),
		down: func() { d.stop(t) }, up: func() { d.start(t) },
	}
}

// pamCase is the static build, with a separate helper service.
func pamCase(t *testing.T) storeCase {
	flags := []string{"--allow-user", strconv.Itoa(nobody)}
	h := startPAMHelper(t, map[string]string{"smtp": shippedService(t, "smtp")}, flags...)
	return storeCase{
		stores: fmt.Sprintf("[[auth.stores]]\nkind = \"pam\"\nsocket = %q\n", h.socket()),
		user:   newUser(t, "sesame"), password: "sesame", closed: newUser(t, "sesame", "chage -E 2020-01-01"),
		down: func() { h.stop(t) }, up: func() { h.start(t, flags...) },
	}
}

func dovecotCase(t *testing.T) storeCase {
	d := startDovecot(t)
	return storeCase{
		stores: fmt.Sprintf("[[auth.stores]]\nkind = \"dovecot\"\npath = %q\n", d.socket),
		user:   "alice@example.org", password: "secret", closed: "closed@example.org",
		mechanisms: []string{"CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"},
		down:       func() { d.stop(t) }, up: func() { d.start(t) },
	}
}

func ldapCase(t *testing.T) storeCase {
	s := startSlapd(t)
	return storeCase{
		stores: s.table(t, ""),
		user:   "alice", password: "secret", closed: "bob",
		down: s.stop, up: func() { s.start(t) },
	}
}

// table returns a table [[auth.stores]] that searches over StartTLS, with more lines.
func (s *slapd) table(t *testing.T, more string) string {
	t.Helper()
	password := filepath.Join(s.dir, "password")
	writeSecret(t, password, "service")
	kit.Must(t, os.Chown(password, nobody, nobody))
	return fmt.Sprintf(`[[auth.stores]]
kind = "ldap"
server_host = [%q]
start_tls = true
ca_file = %q
search_base = "dc=example,dc=org"
query_filter = "(&(objectClass=person)(uid={user}))"
bind_dn = "cn=postern,dc=example,dc=org"
bind_password_file = %q
disabled_filter = "(employeeType=departed)"
%s
`, s.url, filepath.Join(s.dir, "ca.pem"), password, more)
}

// sharedSQLite returns a file that the user of postern can read.
func sharedSQLite(t *testing.T) *database {
	return &database{driver: sqldb.SQLite, dsn: filepath.Join(kit.OpenDir(t), "users.sqlite")}
}

// sqlCase has SCRAM keys in the table.
func sqlCase(t *testing.T, d *database) storeCase {
	keys := keysOf(t, "secret")
	d.exec(t, "create table accounts (name varchar(255) primary key, hash varchar(255), active boolean)",
		"insert into accounts values ('alice@example.org', '"+keys+"', true)",
		"insert into accounts values ('closed@example.org', '"+keys+"', false)",
	)
	o := storeCase{
		stores: fmt.Sprintf("mechanisms = %s\n[[auth.stores]]\nkind = \"sql\"\ndriver = %q\n"+
			"query = \"select hash, name as username, not active as disabled from accounts where name = {user}\"\n", ownMechanisms, d.driver),
		user: "alice@example.org", password: "secret", closed: "closed@example.org",
		mechanisms: []string{"SCRAM-SHA-256"},
	}
	if d.server == nil {
		o.stores += fmt.Sprintf("path = %q\n", d.dsn)
		return o
	}
	o.stores += fmt.Sprintf("dsn = %q\n", d.socket)
	o.down, o.up = d.server.stop, func() { d.server.start(t) }
	return o
}

// keysOf returns the SCRAM keys that "postern passwd --scheme scram-sha-256" writes.
func keysOf(t *testing.T, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	setUserfilePassword(t, path, "user", password)
	text, err := os.ReadFile(path)
	kit.Must(t, err)
	_, keys, _ := strings.Cut(strings.TrimSpace(string(text)), ":")
	return keys
}
