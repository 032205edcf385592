package userfile

import (
	"strings"
	"testing"
)

// A passwd-file of Dovecot's may close a user out behind the hash.
func TestDovecotExtraFields(t *testing.T) {
	const hash = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="
	for _, tt := range []struct {
		rest   string
		locked bool
		why    string
	}{
		{"", false, ""},
		{":1000:1000:Alice Nologin:/home/alice:/sbin/nologin", false, ""},
		{":1000:1000::/home/alice::userdb_quota=1G", false, ""},
		{":::::: nologin", true, ""},
		{":1000:1000::/home/alice::userdb_quota=1G nologin=y", true, ""},
		{"::::::nologin=yes", true, ""},
		{"::::::allow_nets=192.0.2.0/24", true, "allow_nets"},
		{"::::::nodelay=y allow_real_nets=2001:db8::/32", true, "allow_real_nets"},
	} {
		users, skipped, err := parse([]byte("alice:" + hash + tt.rest + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		stored, there := users.hashes["alice"]
		if !there || (stored == "") != tt.locked {
			t.Errorf("%q: there %v, locked %v", tt.rest, there, stored == "")
		}
		if !strings.Contains(skipped.summary(), tt.why) {
			t.Errorf("%q: said %q", tt.rest, skipped.summary())
		}
	}
}
