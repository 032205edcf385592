package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A named pipe in the place of a file is refused at once, wherever it is named,
// and not waited for.
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
		writeFile(t, file, section+key+named+"\n")
		_, err := loadConfig(file)
		if err == nil || !strings.Contains(err.Error(), "named pipe") || !strings.Contains(err.Error(), key+named) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := loadConfig(pipe); err == nil || !strings.Contains(err.Error(), "named pipe") {
		t.Errorf("the configuration itself: %v", err)
	}
}

func TestRegular(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	writeFile(t, file, "")
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
