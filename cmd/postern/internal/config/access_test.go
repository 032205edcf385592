package config

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/certs"
	"postern/internal/access"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

// A named pipe in place of a file is refused at once, whichever key names it; it
// must not be opened.
func TestNamedPipesAreRefused(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	must(t, syscall.Mkfifo(pipe, 0o600))
	named := fmt.Sprintf(" = %q", pipe)
	for key, section := range map[string]string{
		"cert":               "[[tls.certificates]]\nkey = \"/none\"\n",
		"key":                "[[tls.certificates]]\ncert = \"/none\"\n",
		"path":               "[[auth.stores]]\nkind = \"userfile\"\n",
		"bind_password_file": "[[auth.stores]]\nkind = \"ldap\"\nserver_host = [\"ldaps://ldap.example.org\"]\nsearch_base = \"dc=example,dc=org\"\nbind_dn = \"cn=postern\"\n",
		"dsn_file":           "[[auth.stores]]\nkind = \"sql\"\ndriver = \"mysql\"\nquery = \"select password, username from mailbox where username = {user}\"\n",
		"credentials":        "[relay]\nnext_hops = [\"smtps://mail.example.org\"]\n",
		"ca_file":            "[relay]\nnext_hops = [\"smtps://mail.example.org\"]\n",
	} {
		file := filepath.Join(dir, "config.toml")
		write(t, file, section+key+named+"\n")
		_, err := Load(file)
		if err == nil || !strings.Contains(err.Error(), "named pipe") || !strings.Contains(err.Error(), key+named) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := Load(pipe); err == nil || !strings.Contains(err.Error(), "named pipe") {
		t.Errorf("the configuration itself: %v", err)
	}
}

func TestRegular(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, "")
	for path, want := range map[string]string{
		file:                          "",
		filepath.Join(dir, "missing"): "",
		dir:                           "is a directory",
		"/dev/zero":                   "is a device",
	} {
		err := regular(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestAccessOfStores(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "dsn")
	cert, key := filepath.Join(dir, "my cert.pem"), filepath.Join(dir, "key.pem")
	certPEM, keyPEM, err := certs.SelfSigned([]string{"localhost"}, time.Hour)
	must(t, err)
	must(t, os.WriteFile(cert, certPEM, 0o600))
	must(t, os.WriteFile(key, keyPEM, 0o600))
	must(t, os.WriteFile(secret, []byte("postgres://u:p@db.example.org:6543/mail?sslmode=verify-full&sslrootcert="+url.PathEscape(cert)+"\n"), 0o600))
	const query = "query = \"select password, username from mailbox where username = {user}\"\n"
	for _, test := range []struct {
		store string
		reads []string
		ports []uint16
	}{
		{`kind = "userfile"` + "\npath = \"/srv/users\"\n", []string{"/srv/users"}, nil},
		{`kind = "saslauthd"`, nil, nil},
		{`kind = "dovecot"`, nil, nil},
		{"kind = \"dovecot\"\npath = \"inet:127.0.0.1:12345\"", nil, []uint16{12345}},
		{"kind = \"ldap\"\nserver_host = [\"ldap://a.example.org\", \"ldaps://b.example.org:6360\", \"ldapi:///\"]\n" +
			"user_dn = \"uid={user},dc=example,dc=org\"\nca_file = \"/srv/ca.pem\"\n", []string{"/srv/ca.pem"}, []uint16{389, 6360}},
		{"kind = \"sql\"\ndriver = \"sqlite\"\npath = \"/srv/users.sqlite\"\n" + query, []string{"/srv/users.sqlite"}, nil},
		{"kind = \"sql\"\ndriver = \"postgres\"\ndsn = \"host=/run/postgresql dbname=mail\"\n" + query, nil, nil},
		{"kind = \"sql\"\ndriver = \"postgres\"\ndsn_file = \"" + secret + "\"\n" + query, []string{secret, cert}, []uint16{6543}},
		{"kind = \"sql\"\ndriver = \"postgres\"\ndsn = \"host=a.example.org,b.example.org port=5432,5433 dbname=mail sslcert='" + cert + "' sslkey=" + key + "\"\n" + query,
			[]string{cert, key}, []uint16{5432, 5433}},
		{"kind = \"sql\"\ndriver = \"mysql\"\ndsn = \"postern@tcp(db.example.org)/mail\"\n" + query, nil, []uint16{3306}},
		{"kind = \"sql\"\ndriver = \"mysql\"\ndsn = \"postern@unix(/run/mysqld/mysqld.sock)/mail\"\n" + query, nil, nil},
	} {
		cfg, err := Parse("test", "[[auth.stores]]\n"+test.store)
		if err != nil {
			t.Errorf("%s\n%v", test.store, err)
			continue
		}
		n := new(access.List)
		cfg.Auth.Stores[0].Backend.Access(func(key string) string { return key }, n)
		var reads []string
		for _, f := range n.Reads {
			reads = append(reads, f.Path)
		}
		if !slices.Equal(reads, test.reads) || !slices.Equal(n.PortNumbers(), test.ports) {
			t.Errorf("%s\nuses %v and %v, want %v and %v", test.store, reads, n.PortNumbers(), test.reads, test.ports)
		}
	}
}

// Every key that names a file or a host must be in Config.Access.
func TestAccessHasEveryKey(t *testing.T) {
	known := []string{
		"server.stage_dir", "server.state_dir", "tls.certificates[].cert", "tls.certificates[].key",
		"relay.next_hops", "relay.credentials", "relay.ca_file", "relay.dkim[].key", "relay.spool",
		"auth.stores[].path", "auth.stores[].server_host", "auth.stores[].ca_file", "auth.stores[].bind_password_file",
		"auth.stores[].dsn", "auth.stores[].dsn_file",
	}
	harmless := []string{
		"server.hostname", "listener[].address", "server.control", // bound before
		"server.hide_client", "auth.stores[].socket", // a Unix socket
		"relay.spool_lifetime", "relay.spool_messages", "relay.spool_size",
		"relay.spool_messages_per_user", "relay.spool_size_per_user",
		"listener[].discard_ehlo_keywords",
	}
	suspect := regexp.MustCompile(`dir|path|file|cert|key|dsn|host|hop|socket|address|url|credentials|spool|milter|delegate|table|map`)
	all := allKeys()
	for _, key := range slices.Concat(known, harmless) {
		if !slices.Contains(all, key) {
			t.Errorf("%s is not a key any more", key)
		}
	}
	listener := strings.NewReplacer("listener[].tls.", "tls.", "listener[].auth.", "auth.", "listener[].relay.", "relay.")
	for _, key := range all {
		key = listener.Replace(key)
		if suspect.MatchString(key) && !slices.Contains(known, key) && !slices.Contains(harmless, key) {
			t.Errorf("%s looks like a file or a host: add it to Config.Access (or to Access of its store), and to this test", key)
		}
	}
}

// What only one listener names is in the list, under its path in the file. Sections that
// no listener uses are not.
func TestAccessOfListeners(t *testing.T) {
	cfg, err := Parse("test", `
[[listener]]
name = "a"
address = [":1"]
tls.certificates = [{ cert = "/srv/a.pem", key = "/srv/a.key" }]
auth.stores = [{ kind = "userfile", path = "/srv/a.users" }]
relay.next_hops = ["smtp://192.0.2.1:2525"]
[[listener]]
name = "b"
address = [":2"]
auth.stores = [{ kind = "userfile", path = "/srv/b.users" }]
relay.next_hops = ["smtp://192.0.2.1:2526"]
`)
	must(t, err)
	want := map[string]string{
		"listener[0].tls.certificates[0].cert": "/srv/a.pem",
		"listener[0].tls.certificates[0].key":  "/srv/a.key",
		"tls.certificates[0].cert":             "/etc/postern/tls/fullchain.pem",
		"tls.certificates[0].key":              "/etc/postern/tls/privkey.pem",
		"listener[0].auth.stores[0].path":      "/srv/a.users",
		"listener[1].auth.stores[0].path":      "/srv/b.users",
	}
	list, got := cfg.Access(""), make(map[string]string)
	for _, f := range list.Reads {
		got[f.Key] = f.Path
	}
	if !maps.Equal(got, want) {
		t.Errorf("reads %v, want %v", got, want)
	}
	if ports := list.PortNumbers(); !slices.Equal(ports, []uint16{53, 2525, 2526}) {
		t.Errorf("ports %v", ports)
	}
}
