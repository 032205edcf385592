package ldap

import (
	"testing"
	"unicode/utf8"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

func TestFill(t *testing.T) {
	tests := []struct{ template, login, want string }{
		{"uid={user},dc=example", "alice", "uid=alice,dc=example"},
		{"uid={user},dc=example", "alice,dc=evil", `uid=alice\,dc=evil,dc=example`},
		{"uid={user},dc=example", "{domain}@x", "uid={domain}@x,dc=example"},
		{"uid={local},ou={domain}", "alice@example.org", "uid=alice,ou=example.org"},
		{"uid={local},ou={domain}", "a@b@example.org", "uid=a@b,ou=example.org"},
		{"uid={local},ou={domain}", "alice", ""},
		{"uid={local},ou={domain}", "alice@", ""},
		{"uid={local}", "alice", "uid=alice"},
	}
	for _, tt := range tests {
		var template DNTemplate
		set(t, &template, tt.template)
		got, err := template.fill(tt.login)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s with %s: %q, %v", tt.template, tt.login, got, err)
		}
	}
	var filter FilterTemplate
	set(t, &filter, "(&(objectClass=person)(uid={user}))")
	if got, err := filter.fill("*)(uid=*"); got != `(&(objectClass=person)(uid=\2a\29\28uid=\2a))` || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// Whatever the login, a filled template has the structure of the template.
func FuzzTemplates(f *testing.F) {
	for _, login := range []string{"alice", "*)(uid=*", "a,b=c", "#a", " a ", "a\\", "\x00", "a+b=c", `"`, "ä", "(", "\\2a", "a' or 1=1--"} {
		f.Add(login)
	}
	f.Fuzz(func(t *testing.T, login string) {
		if !utf8.ValidString(login) || login == "" {
			return // nothing else reaches a template
		}
		checkDN(t, login)
		checkFilter(t, login)
	})
}

func checkDN(t *testing.T, login string) {
	dn, err := DNTemplate{"uid={user},ou=people,dc=example,dc=org"}.fill(login)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		t.Fatalf("%q: %v", dn, err)
	}
	if len(parsed.RDNs) != 4 || len(parsed.RDNs[0].Attributes) != 1 || parsed.RDNs[0].Attributes[0].Value != login {
		t.Errorf("%q became %q", login, dn)
	}
}

func checkFilter(t *testing.T, login string) {
	filter, err := FilterTemplate{"(&(objectClass=person)(uid={user}))"}.fill(login)
	if err != nil {
		t.Fatal(err)
	}
	packet, err := ldap.CompileFilter(filter)
	if err != nil {
		t.Fatalf("%q: %v", filter, err)
	}
	if len(packet.Children) != 2 || packet.Children[1].Tag != ldap.FilterEqualityMatch {
		t.Fatalf("%q has another structure", filter)
	}
	value := ber.DecodeString(packet.Children[1].Children[1].Data.Bytes())
	if value != login {
		t.Errorf("%q became %q", login, value)
	}
}
