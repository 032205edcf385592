package config

import (
	"strings"
	"testing"
)

// The text of an error never has a secret, wherever an administrator has written it.
func TestSecretsInErrors(t *testing.T) {
	for _, line := range []string{
		`bind_password: Geheim77`,
		`bind_password "Geheim77"`,
		`bind_password Geheim77`,
		`bind_password = Geheim77`,
		`bind_password = "Geheim77`,
		`bind_password = "ab"Geheim77"`,
		`bind_password = "ab\Geheim77"`,
		`bind_password = ["x", "Geheim77"]`,
		"bind_password = [\n\"Geheim77\"\n",
		`bind_password = "a"`,
		`bindpw = "Geheim77"`,
		`pwd = "Geheim77"`,
		`api_key = "Geheim77"`,
		`bind_password_file = Geheim77`,
		`bind_password_file = ["Geheim77"]`,
		`timeout = 5 bind_password = "Geheim77"`,
		`bind = { dn = "x", password = "Geheim77" }`,
		`bind = { file = "/x", password_file = "/y", password = "Geheim77"`,
		`dsn = "postgres://u:Geh eim77 Geheim77@h/db"`,
		`dsn = u:Geheim77@tcp(h:3306)/db`,
		`dsn = u:Geheim77@h/db`,
		`dsn = "u:Geheim77@h/db`,
		`dsn = "host=h password='a Geheim77' user=x" 5`,
		`dsn = host=h password='a Geheim77' user=x`,
		`dsn = {password = "Geheim77"}`,
		`server_host = "ldap://cn=x:\u00e9Geheim77@h"`,
		`server_host = "ldap://cn=x:\tGeheim77@h"`,
		"'password' = 'it''s Geheim77'",
	} {
		text := "[[auth.stores]]\nkind = \"ldap\"\n" + line + "\n"
		_, err := parse("config.toml", text, nil)
		if err == nil || strings.Contains(err.Error(), "eim77") {
			t.Errorf("%s:\n%v", line, err)
		}
	}
}

// Names and paths that only look like secrets are shown.
func TestShownLines(t *testing.T) {
	for _, line := range []string{
		`bind_password_file = "/etc/postern/ldap"`,
		`credentials = "/etc/postern/relay"`,
		`next_hops = ["smtp://[::1]:25"]`,
		`senders = ["a@example.org"]`,
	} {
		if got := hide(line); got != line {
			t.Errorf("%s: %s", line, got)
		}
	}
}
