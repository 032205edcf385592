package ldap

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// set parses a value of the configuration.
func set(t *testing.T, v interface{ UnmarshalText([]byte) error }, text string) {
	t.Helper()
	if err := v.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func searching(t *testing.T) Config {
	cfg := Defaults()
	set(t, &cfg.SearchBase, "ou=people,dc=example,dc=org")
	return cfg
}

func byName(t *testing.T) Config {
	cfg := Defaults()
	set(t, &cfg.UserDN, "uid={user},ou=people,dc=example,dc=org")
	return cfg
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
		base   func(*testing.T) Config
		change func(*Config)
		keys   []string // with an error
	}{
		{"search", searching, func(*Config) {}, nil},
		{"by name", byName, func(*Config) {}, nil},
		{"nothing", func(*testing.T) Config { return Defaults() }, func(*Config) {}, []string{"search_base"}},
		{"service account", searching, func(c *Config) {
			set(t, &c.BindDN, "cn=postern,dc=example,dc=org")
			c.BindPasswordFile = "/etc/postern/ldap"
		}, nil},
		{"no password", searching, func(c *Config) { set(t, &c.BindDN, "cn=postern,dc=example,dc=org") }, []string{"bind_password_file"}},
		{"password without account", searching, func(c *Config) { c.BindPasswordFile = "/etc/postern/ldap" }, []string{"bind_dn"}},
		{"relative paths", searching, func(c *Config) {
			set(t, &c.BindDN, "cn=postern,dc=example,dc=org")
			c.BindPasswordFile, c.CAFile = "ldap", "ca.pem"
		}, []string{"ca_file", "bind_password_file"}},
		{"both ways", byName, func(c *Config) {
			set(t, &c.SearchBase, "dc=example,dc=org")
			set(t, &c.BindDN, "cn=postern,dc=example,dc=org")
			c.BindPasswordFile = "/etc/postern/ldap"
		}, []string{"search_base", "bind_dn", "bind_password_file"}},
		{"no server", byName, func(c *Config) { c.ServerHost = nil }, []string{"server_host"}},
		{"a server twice", byName, func(c *Config) { c.ServerHost = urls(t, "ldap://a", "ldap://A:389/") }, []string{"server_host"}},
		{"unverified on loopback", byName, func(c *Config) {
			c.Verify, c.ServerHost = false, urls(t, "ldaps://127.0.0.1", "ldap://localhost", "ldap://[::1]", "ldapi:///")
		}, nil},
		{"unverified elsewhere", byName, func(c *Config) { c.Verify, c.ServerHost = false, urls(t, "ldap://ldap.example.org") }, []string{"verify"}},
		{"odd attribute", byName, func(c *Config) { c.UserAttribute = "uid,mail" }, []string{"user_attribute"}},
		{"any domain by search", searching, func(c *Config) { set(t, &c.QueryFilter, "(uid={local})") }, []string{"user_attribute"}},
		{"any domain by name", byName, func(c *Config) { set(t, &c.UserDN, "uid={local},dc=example,dc=org") }, []string{"user_attribute"}},
		{"any domain and the name", searching, func(c *Config) {
			set(t, &c.QueryFilter, "(uid={local})")
			c.UserAttribute = "mail"
		}, nil},
		{"the domain elsewhere", byName, func(c *Config) { set(t, &c.UserDN, "uid={local},ou={domain},dc=example,dc=org") }, nil},
		{"no connections", byName, func(c *Config) { c.Connections = 0 }, []string{"connections"}},
		{"no idle time", byName, func(c *Config) { c.IdleTime = -time.Second }, []string{"idle_time"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tt.base(t)
			tt.change(&cfg)
			var keys []string
			cfg.Validate(func(key, why string) {
				keys = append(keys, key)
				if len(why) < 20 {
					t.Errorf("%s: %q has no next step", key, why)
				}
			})
			if !slices.Equal(keys, tt.keys) {
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

func TestTemplatesRefused(t *testing.T) {
	for _, text := range []string{"uid=alice,dc=example", "{user}", "{user}=x,dc=example", "uid={user}{name}", "uid={user},,dc=example", "uid={User},dc=example"} {
		if err := new(DNTemplate).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("DN %s is accepted", text)
		}
	}
	for _, text := range []string{"", "(uid=alice)", "({user}=x)", "(uid={user}", "(uid={user})(x=y)", "(uid={login})", "{user}"} {
		if err := new(FilterTemplate).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("filter %s is accepted", text)
		}
	}
	for _, text := range []string{"(", "uid", "(uid=a)(uid=b)"} {
		if err := new(Filter).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("filter %s is accepted", text)
		}
	}
	if err := new(DN).UnmarshalText([]byte("people")); err == nil {
		t.Error("a DN without attribute is accepted")
	}
	if err := new(Scope).UnmarshalText([]byte("deep")); err == nil {
		t.Error("an unknown scope is accepted")
	}
}

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

// A filled template has the structure of the template for every login.
func FuzzTemplates(f *testing.F) {
	for _, login := range []string{"alice", "*)(uid=*", "a,b=c", "#a", " a ", "a\\", "\x00", "a+b=c", `"`, "ä", "(", "\\2a", "a' or 1=1--"} {
		f.Add(login)
	}
	f.Fuzz(func(t *testing.T, login string) {
		if !utf8.ValidString(login) || login == "" {
			return // precheck refuses these
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
