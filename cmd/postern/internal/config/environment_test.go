package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"postern/server/auth/userfile"
)

// Each variable of the table replaces its key, in the shared section and for each listener
// that has no value of its own.
func TestEnvironment(t *testing.T) {
	file := `
[server]
hostname = "file.example.org"
hide_client = false
[[tls.certificates]]
cert = "/etc/a.pem"
key = "/etc/a.key"
[[auth.stores]]
kind = "saslauthd"
[relay]
next_hops = ["smtp://192.0.2.1:25", "smtp://192.0.2.2:25"]
[[listener]]
name = "a"
address = [":587"]
[[listener]]
name = "b"
address = [":588"]
relay.next_hops = ["smtp://192.0.2.9:25"]
`
	cfg, err := parse("config.toml", file, []string{
		"PATH=/bin", "POSTERN_HOSTNAME=mail.example.org", "POSTERN_ORIGIN=example.org", "POSTERN_NEXT_HOPS=smtp://[2001:db8::1]:25, smtps://relay.example.org",
		"POSTERN_USERS=/run/users", "POSTERN_TLS_CERT=/run/cert.pem", "POSTERN_TLS_KEY_FILE=/run/secrets/key", "POSTERN_PROXY_TRUSTED=192.0.2.0/24 2001:db8::/64",
		"POSTERN_MESSAGE_SIZE_LIMIT=20MiB", "POSTERN_SPOOL=/var/spool/postern", "POSTERN_LOG_LEVEL=debug",
	})
	must(t, err)
	own, other := cfg.Listeners[0], cfg.Listeners[1]
	for what, got := range map[string][2]any{
		"hostname":     {cfg.Server.Hostname, "mail.example.org"},
		"origin":       {cfg.Server.Origin, "example.org"},
		"hide_client":  {cfg.Server.HideClient, false},
		"next hops":    {len(own.Relay.NextHops), 2},
		"next hop":     {own.Relay.NextHops[1].String(), "smtps://relay.example.org:465"},
		"own next hop": {other.Relay.NextHops[0].String(), "smtp://192.0.2.9:25"},
		"users":        {own.Auth.Stores[0].Backend.(*userfile.Config).Path, "/run/users"},
		"stores":       {len(cfg.Auth.Stores), 1},
		"certificates": {len(own.TLS.Certificates), 1},
		"cert":         {own.TLS.Certificates[0].Cert, "/run/cert.pem"},
		"key":          {own.TLS.Certificates[0].Key, "/run/secrets/key"},
		"proxies":      {len(cfg.Server.ProxyTrusted), 2},
		"size":         {int64(cfg.Server.MessageSizeLimit), int64(20 << 20)},
		"spool":        {cfg.Relay.Dir, "/var/spool/postern"},
		"level":        {cfg.Log.Level.String(), "debug"},
		"variables":    {len(cfg.Environment()), 10},
	} {
		if !reflect.DeepEqual(got[0], got[1]) {
			t.Errorf("%s: %v, want %v", what, got[0], got[1])
		}
	}
}

func TestEnvironmentErrors(t *testing.T) {
	for _, test := range []struct{ variable, want, secret string }{
		{"POSTERN_HOSTNMAE=mail.example.org", "did you mean POSTERN_HOSTNAME?", ""},
		{"POSTERN_WORKERS=5", "there is no such setting", ""},
		{"POSTERN_PORT=2525", "there is no such setting", ""},
		{"POSTERN_HOSTNAME=a b", `environment: POSTERN_HOSTNAME="a b": server.hostname: `, ""},
		{"POSTERN_NEXT_HOPS=postfix:25", `environment: POSTERN_NEXT_HOPS="postfix:25": relay.next_hops: `, ""},
		{"POSTERN_NEXT_HOPS=smtp://u:hunter2@host", "environment: POSTERN_NEXT_HOPS", "hunter2"},
		{"POSTERN_MESSAGE_SIZE_LIMIT=1KiB", `server.message_size_limit: is below 64KiB`, ""},
		{"POSTERN_MESSAGE_SIZE_LIMIT=20 apples", `is not a size`, ""},
		{"POSTERN_PROXY_TRUSTED=localhost", `server.proxy_trusted: must be a network`, ""},
		{"POSTERN_LOG_LEVEL=loud", "environment: POSTERN_LOG_LEVEL", ""},
		{"POSTERN_TLS_CERT=/run/cert.pem", "POSTERN_TLS_KEY is not", ""},
		{"POSTERN_TLS_KEY=-----BEGIN PRIVATE KEY-----\nMIIhunter2", "takes the path of a file, not a private key", "hunter2"},
		{"POSTERN_USERS=alice:hunter2", "takes the path of a file, not users", "hunter2"},
		{"POSTERN_RELAY_PASSWORD=hunter2", "secrets are not read from the environment", "hunter2"},
		{"POSTERN_SQL_DSN=postgres://u:hunter2@db/mail", "secrets are not read from the environment", "hunter2"},
		{"POSTERN_USERS=hunter2", "takes an absolute path", "hunter2"},
		{"POSTERN_TLS_KEY=MIIhunter2", "takes an absolute path", "hunter2"},
		{"POSTERN_SPOOL=/var/spool\n/postern", "contains a line break", ""},
		{"POSTERN_PROXY_TRUSTED=192.0.2.1", "write it with its length", ""},
		{"POSTERN_LDAP_BIND_PASSWORD_FILE=/run/secrets/ldap", "there is no such setting", ""},
	} {
		_, err := parse("config.toml", "[log]\nlevel = \"info\"\n", []string{test.variable})
		if err == nil || !strings.Contains(err.Error(), test.want) || test.secret != "" && strings.Contains(err.Error(), test.secret) {
			t.Errorf("%s: got %v, want %q", test.variable, err, test.want)
		}
	}
	_, err := parse("config.toml", "", []string{"POSTERN_USERS=/a", "POSTERN_USERS_FILE=/b"})
	if err == nil || !strings.Contains(err.Error(), "keep one of the two") {
		t.Errorf("the same key twice: %v", err)
	}
}

// A mistake in the file stays one of the file, even if a variable replaces the value.
func TestEnvironmentDoesNotHideTheFile(t *testing.T) {
	_, err := parse("config.toml", "[relay]\nnext_hops = [\"postfix\"]\n", []string{"POSTERN_NEXT_HOPS=smtp://postfix:25"})
	if err == nil || !strings.Contains(err.Error(), "config.toml:2:") {
		t.Errorf("got %v", err)
	}
}

// These are what Kubernetes injects for services called postern and postern-smtp, and what is
// not set.
func TestEnvironmentIgnores(t *testing.T) {
	cfg, err := parse("config.toml", "", []string{
		"POSTERN_SERVICE_HOST=10.0.0.1", "POSTERN_SERVICE_PORT=587", "POSTERN_SERVICE_PORT_SUBMISSION=587", "POSTERN_PORT=tcp://10.0.0.1:587",
		"POSTERN_PORT_587_TCP=tcp://10.0.0.1:587", "POSTERN_PORT_587_TCP_PROTO=tcp", "POSTERN_PORT_587_TCP_PORT=587", "POSTERN_PORT_587_TCP_ADDR=10.0.0.1",
		"POSTERN_SMTP_SERVICE_HOST=10.0.0.1", "POSTERN_SMTP_PORT=tcp://10.0.0.1:25", "POSTERN_TEST_REQUIRE_PEERS=1", "POSTERN_HOSTNAME=",
	})
	must(t, err)
	if len(cfg.Environment()) != 0 {
		t.Errorf("set: %v", cfg.Environment())
	}
}

// docs/containers.md has a row for each variable.
func TestEnvironmentIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/containers.md")
	must(t, err)
	for _, s := range settings() {
		if row := "| `" + s.name + "` | `" + elementNumber.ReplaceAllString(s.key, "") + "` |"; !strings.Contains(string(page), row) {
			t.Errorf("docs/containers.md has no row %q", row)
		}
	}
}

func TestMissingMount(t *testing.T) {
	empty, other := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, "users"), nil, 0o600))
	for dir, want := range map[string]string{empty: "is empty", other: "has other files", "/nonexistent": "in this container\n"} {
		text := missingMount(filepath.Join(dir, "config.toml"))
		if !strings.Contains(text, want) || strings.Count(text, "\n") != 2 {
			t.Errorf("%s: got %q, want %q in three lines", dir, text, want)
		}
	}
}
