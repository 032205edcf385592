package ldap

import (
	"slices"
	"testing"

	"postern/internal/ldapclient"
	"postern/test/kit"
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

func urls(t *testing.T, texts ...string) []ldapclient.URL {
	all := make([]ldapclient.URL, len(texts))
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
		{"odd attribute", byName, func(c *Config) { c.UserAttribute = "uid,mail" }, []string{"user_attribute"}},
		{"any domain by search", searching, func(c *Config) { set(t, &c.QueryFilter, "(uid={local})") }, []string{"user_attribute"}},
		{"any domain by name", byName, func(c *Config) { set(t, &c.UserDN, "uid={local},dc=example,dc=org") }, []string{"user_attribute"}},
		{"several attributes", searching, func(c *Config) { set(t, &c.QueryFilter, "(|(uid={user})(mail={user}))") }, []string{"user_attribute"}},
		{"one attribute twice", searching, func(c *Config) { set(t, &c.QueryFilter, "(|(uid={user})(UID=x-{user})(cn=y))") }, nil},
		{"any domain and the name", searching, func(c *Config) {
			set(t, &c.QueryFilter, "(uid={local})")
			c.UserAttribute = "mail"
		}, nil},
		{"the domain elsewhere", byName, func(c *Config) { set(t, &c.UserDN, "uid={local},ou={domain},dc=example,dc=org") }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tt.base(t)
			tt.change(&cfg)
			if keys := kit.BadKeys(t, cfg.Validate); !slices.Equal(keys, tt.keys) {
				t.Errorf("errors for %q, want %q", keys, tt.keys)
			}
		})
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
}
