package ldapclient

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"postern/test/kit"
)

// set parses a value of the configuration.
func set(t *testing.T, v interface{ UnmarshalText([]byte) error }, text string) {
	t.Helper()
	if err := v.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func urls(t *testing.T, texts ...string) []URL {
	all := make([]URL, len(texts))
	for i, text := range texts {
		set(t, &all[i], text)
	}
	return all
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		keys   []string // with an error
	}{
		{"defaults", func(*Config) {}, nil},
		{"service account", func(c *Config) {
			set(t, &c.BindDN, "cn=postern,dc=example,dc=org")
			c.BindPasswordFile = "/etc/postern/ldap"
		}, nil},
		{"no password", func(c *Config) { set(t, &c.BindDN, "cn=postern,dc=example,dc=org") }, []string{"bind_password_file"}},
		{"password without account", func(c *Config) { c.BindPasswordFile = "/etc/postern/ldap" }, []string{"bind_dn"}},
		{"a server twice", func(c *Config) { c.ServerHost = urls(t, "ldap://a", "ldap://A:389/") }, []string{"server_host"}},
		{"unverified on loopback", func(c *Config) {
			c.Verify, c.ServerHost = false, urls(t, "ldaps://127.0.0.1", "ldap://localhost", "ldap://[::1]", "ldapi:///")
		}, nil},
		{"unverified elsewhere", func(c *Config) { c.Verify, c.ServerHost = false, urls(t, "ldap://ldap.example.org") }, []string{"verify"}},
		{"no connections", func(c *Config) { c.Connections = 0 }, []string{"connections"}},
		{"no idle time", func(c *Config) { c.IdleTime = -time.Second }, []string{"idle_time"}},
		{"relative paths", func(c *Config) {
			set(t, &c.BindDN, "cn=postern,dc=example,dc=org")
			c.BindPasswordFile, c.CAFile = "ldap", "ca.pem"
		}, []string{"ca_file", "bind_password_file"}},
		{"no server", func(c *Config) { c.ServerHost = nil }, []string{"server_host"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Defaults()
			tt.change(&cfg)
			if keys := kit.BadKeys(t, cfg.Validate); !slices.Equal(keys, tt.keys) {
				t.Errorf("errors for %q, want %q", keys, tt.keys)
			}
		})
	}
}

func TestURL(t *testing.T) {
	good := map[string]string{
		"ldap://ldap.example.org":        "ldap://ldap.example.org:389",
		"LDAPS://LDAP.example.org/":      "ldaps://ldap.example.org:636",
		"ldap://[2001:db8::1]:1389":      "ldap://[2001:db8::1]:1389",
		"ldapi:///":                      "ldapi:///run/slapd/ldapi",
		"ldapi:///run/ldapi":             "ldapi:///run/ldapi",
		"ldapi://%2Frun%2Fslapd%2Fldapi": "ldapi:///run/slapd/ldapi",
	}
	for text, want := range good {
		var u URL
		if err := u.UnmarshalText([]byte(text)); err != nil || u.String() != want {
			t.Errorf("%s: %s, %v", text, u, err)
		}
	}
	bad := []string{
		"", "ldap.example.org", "http://ldap.example.org", "ldap://", "ldap://ldap.example.org/dc=example", "ldap://a?b", "ldap://a:0", "ldap://a:x",
		"ldap://cn=postern:secret@ldap.example.org", "ldap://a b", "ldap://-a", "ldapi://run/ldapi", "ldapi:///%zz", "ldapi:///" + strings.Repeat("x", 200),
	}
	for _, text := range bad {
		var u URL
		if err := u.UnmarshalText([]byte(text)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %s, %v", text, u, err)
		}
	}
}

// variables and percent are two sets of variables.
var (
	variables = Variables{Whole: "{user}", Local: "{local}", Domain: "{domain}", Constant: "is constant", ExampleDN: "a={user}", ExampleFilter: "(a={user})"}
	percent   = Variables{Whole: "%s", Local: "%u", Domain: "%d", Constant: "is constant", ExampleDN: "a=%s", ExampleFilter: "(a=%s)"}
)

func TestTemplatesRefused(t *testing.T) {
	for text, want := range map[string]string{
		"(a=b)":     "is constant",
		"(a=%s%n)":  "has an unknown variable; the variables are %s, %u and %d",
		"(a=%s)%%":  "has an unknown variable",
		"(%s=a)":    "lets the client choose the attribute",
		"(%dx=%u)":  "lets the client choose the attribute",
		"(a=%s":     "is not a filter; write it as (a=%s)",
		"a=%s,c=%d": "is not a filter",
	} {
		if err := percent.CheckFilter(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if err := percent.CheckDN("a=%s,,"); err == nil || !strings.Contains(err.Error(), "is not a distinguished name; write it as a=%s") {
		t.Errorf("%v", err)
	}
	if err := new(DN).UnmarshalText([]byte("people")); err == nil {
		t.Error("a DN without attribute is accepted")
	}
	if err := new(Scope).UnmarshalText([]byte("deep")); err == nil {
		t.Error("an unknown scope is accepted")
	}
}

func TestFill(t *testing.T) {
	tests := []struct{ template, input, want string }{
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
		if err := variables.CheckDN(tt.template); err != nil {
			t.Error(err)
		}
		got, ok := variables.FillDN(tt.template, tt.input)
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s with %s: %q, %v", tt.template, tt.input, got, ok)
		}
	}
	got, ok := variables.FillFilter("(&(objectClass=person)(uid={user}))", "*)(uid=*")
	if got != `(&(objectClass=person)(uid=\2a\29\28uid=\2a))` || !ok {
		t.Errorf("%q, %v", got, ok)
	}
	got, ok = percent.FillFilter("(|(mail=%s)(dc=%d))", "%u@*.example.org")
	if got != `(|(mail=%u@\2a.example.org)(dc=\2a.example.org))` || !ok {
		t.Errorf("%q, %v", got, ok)
	}
}

// A filled template has the structure of the template for every input.
func FuzzTemplates(f *testing.F) {
	for _, input := range []string{"alice", "*)(uid=*", "a,b=c", "#a", " a ", "a\\", "\x00", "a+b=c", `"`, "ä", "(", "\\2a", "a' or 1=1--"} {
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, input string) {
		if !utf8.ValidString(input) || input == "" {
			return // not text; the callers refuse these
		}
		checkDN(t, input)
		checkFilter(t, input)
	})
}

func checkDN(t *testing.T, input string) {
	dn, _ := variables.FillDN("uid={user},ou=people,dc=example,dc=org", input)
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		t.Fatalf("%q: %v", dn, err)
	}
	if len(parsed.RDNs) != 4 || len(parsed.RDNs[0].Attributes) != 1 || parsed.RDNs[0].Attributes[0].Value != input {
		t.Errorf("%q became %q", input, dn)
	}
}

func checkFilter(t *testing.T, input string) {
	filter, _ := variables.FillFilter("(&(objectClass=person)(uid={user}))", input)
	packet, err := ldap.CompileFilter(filter)
	if err != nil {
		t.Fatalf("%q: %v", filter, err)
	}
	if len(packet.Children) != 2 || packet.Children[1].Tag != ldap.FilterEqualityMatch {
		t.Fatalf("%q has another structure", filter)
	}
	value := ber.DecodeString(packet.Children[1].Children[1].Data.Bytes())
	if value != input {
		t.Errorf("%q became %q", input, value)
	}
}

func TestAccounts(t *testing.T) {
	for text, want := range map[string]bool{
		"cn=postern,dc=example,dc=org": true,
		"postern@corp.example.com":     true,
		`CORP\postern`:                 true,
		`CORP\Anna Müller`:             true,
		"postern":                      false,
		"@corp.example.com":            false,
		`CORP\`:                        false,
		`CORP\a\b`:                     false,
		"a@b@c":                        false,
		"a@-":                          false,
		"CORP\\a\nb":                   false,
		`CORP.EXAMPLE.COM/Users/a`:     false,
	} {
		if err := new(Account).UnmarshalText([]byte(text)); (err == nil) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSecurityIdentifiers(t *testing.T) {
	for value, want := range map[string]string{
		"\x01\x02\x00\x00\x00\x00\x00\x05\x20\x00\x00\x00\x21\x02\x00\x00": "S-1-5-32-545",
		"S-1-5-32-545":                         "S-1-5-32-545",
		"S-1-5)(x=*":                           "",
		"\x01\x02\x00\x00\x00\x00\x00\x05\x20": "",
		"":                                     "",
	} {
		if got, ok := sidText(value); got != want || ok != (want != "") {
			t.Errorf("%q: %q", value, got)
		}
	}
}
