package relay

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDefaultsAreValid(t *testing.T) {
	cfg := Defaults()
	cfg.Validate(func(key, why string) { t.Errorf("%s: %s", key, why) })
	if len(cfg.NextHops) != 1 || cfg.NextHops[0] != mustURL(t, "smtp://localhost:25") {
		t.Errorf("next_hops: %v", cfg.NextHops)
	}
	// RFC 6409, section 5.3.
	if sum := cfg.Patience + cfg.CommandTimeout + cfg.DataTimeout; sum >= 2*time.Minute {
		t.Errorf("an answer may take %v", sum)
	}
}

func TestValidate(t *testing.T) {
	hop := func(text string) func(*Config) {
		return func(c *Config) { c.NextHops = []HopURL{mustURL(t, text)} }
	}
	tests := []struct {
		name   string
		change []func(*Config)
		bad    []string // keys
		hint   string
	}{
		{"no hop", []func(*Config){func(c *Config) { c.NextHops = nil }}, []string{"next_hops"}, "leave the key out"},
		{"twice", []func(*Config){func(c *Config) { c.NextHops = append(c.NextHops, c.NextHops[0]) }}, []string{"next_hops"}, "remove one"},
		{"no verify", []func(*Config){hop("smtps://mail.example.org"), noVerify}, []string{"verify"}, "ca_file"},
		{"no verify, STARTTLS", []func(*Config){hop("smtp+starttls://192.0.2.1"), noVerify}, []string{"verify"}, "loopback only"},
		{"no verify on loopback", []func(*Config){hop("smtp+starttls://localhost"), noVerify}, nil, ""},
		{"no verify without TLS", []func(*Config){hop("smtp://mail.example.org"), noVerify}, nil, ""},
		{"password in clear", []func(*Config){hop("smtp://mail.example.org"), withPassword}, []string{"credentials"}, "smtps://"},
		{"password on loopback", []func(*Config){hop("smtp://[::1]"), withPassword}, nil, ""},
		{"password over a socket", []func(*Config){hop("smtp+unix:///run/smtp"), withPassword}, nil, ""},
		{"password over TLS", []func(*Config){hop("smtps://mail.example.org"), withPassword}, nil, ""},
		{"helo", []func(*Config){func(c *Config) { c.HeloName = "a b" }}, []string{"helo_name"}, "host name"},
		{"helo with CRLF", []func(*Config){func(c *Config) { c.HeloName = "a\r\nQUIT" }}, []string{"helo_name"}, "host name"},
		{"helo literal", []func(*Config){func(c *Config) { c.HeloName = "[IPv6:2001:db8::1]" }}, nil, ""},
		{"no patience", []func(*Config){func(c *Config) { c.Patience = 0 }}, nil, ""},
		{"negative", []func(*Config){func(c *Config) { c.Patience = -1 }}, []string{"patience"}, "negative"},
		{"zeros", []func(*Config){func(c *Config) {
			c.ConnectTimeout, c.CommandTimeout, c.DataTimeout, c.Pool = 0, 0, 0, PoolConfig{}
		}}, []string{"connect_timeout", "command_timeout", "data_timeout", "pool.idle_time", "pool.connections", "pool.messages"}, "1 or more"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Defaults()
			for _, change := range tt.change {
				change(&cfg)
			}
			var keys []string
			var why strings.Builder
			cfg.Validate(func(key, reason string) {
				keys = append(keys, key)
				why.WriteString(reason + "\n")
			})
			if !slices.Equal(keys, tt.bad) || !strings.Contains(why.String(), tt.hint) {
				t.Errorf("%v: %swant %v with %q", keys, &why, tt.bad, tt.hint)
			}
		})
	}
}

func noVerify(c *Config)     { c.Verify = false }
func withPassword(c *Config) { c.Credentials = "/etc/postern/relay.credentials" }

func TestHopURL(t *testing.T) {
	tests := []struct {
		in, want string
		network  string
		address  string
		local    bool
	}{
		{"smtp://localhost:25", "smtp://localhost:25", "tcp", "localhost:25", true},
		{"smtp://localhost", "smtp://localhost:25", "tcp", "localhost:25", true},
		{"smtp://localhost/", "smtp://localhost:25", "tcp", "localhost:25", true},
		{"SMTP://LocalHost", "smtp://localhost:25", "tcp", "localhost:25", true},
		{"smtps://mail.example.org", "smtps://mail.example.org:465", "tcp", "mail.example.org:465", false},
		{"smtp+starttls://mail.example.org", "smtp+starttls://mail.example.org:587", "tcp", "mail.example.org:587", false},
		{"smtp://127.0.0.2:10025", "smtp://127.0.0.2:10025", "tcp", "127.0.0.2:10025", true},
		{"smtp://192.0.2.1", "smtp://192.0.2.1:25", "tcp", "192.0.2.1:25", false},
		{"smtp://[::1]", "smtp://[::1]:25", "tcp", "[::1]:25", true},
		{"smtps://[2001:DB8::1]:465", "smtps://[2001:db8::1]:465", "tcp", "[2001:db8::1]:465", false},
		{"smtp+unix:///run/postern/smtp", "smtp+unix:///run/postern/smtp", "unix", "/run/postern/smtp", true},
		{"smtp+unix:///var/spool/a@b", "smtp+unix:///var/spool/a@b", "unix", "/var/spool/a@b", true},
	}
	for _, tt := range tests {
		u := mustURL(t, tt.in)
		if u.String() != tt.want || u.Network() != tt.network || u.Address != tt.address || u.IsLocal() != tt.local {
			t.Errorf("%s: %+v (%s), want %+v", tt.in, u, u, tt)
		}
		text, _ := u.MarshalText()
		if mustURL(t, string(text)) != u {
			t.Errorf("%s does not come back from %s", tt.in, text)
		}
	}
}

func TestHopURLRefuses(t *testing.T) {
	long := "smtp+unix:///" + strings.Repeat("x", 200)
	for in, hint := range map[string]string{
		"":                             "write smtp://HOST:PORT",
		"localhost:25":                 "write smtp://HOST:PORT",
		"localhost":                    "write smtp://HOST:PORT",
		"[127.0.0.1]:25":               "write smtp://HOST:PORT",
		"inet:localhost:25":            "write smtp://HOST:PORT",
		"http://localhost":             "write smtp://HOST:PORT",
		"lmtp://localhost":             "write smtp://HOST:PORT",
		"smtp://":                      "neither a name nor an address",
		"smtp://:25":                   "neither a name nor an address",
		"smtp://::1":                   "write IPv6 in brackets: [::1]",
		"smtp://[::1":                  "malformed",
		"smtp://[nonsense]:25":         "malformed",
		"smtp://[127.0.0.1]":           "malformed",
		"smtp://[fe80::1%25eth0]":      "neither a name nor an address",
		"smtp://local host":            "malformed",
		"smtp://local%20host":          "malformed",
		"smtp://-v:25":                 "neither a name nor an address",
		"smtp://a,b":                   "neither a name nor an address",
		"smtp://localhost:0":           "1 to 65535",
		"smtp://localhost:65536":       "1 to 65535",
		"smtp://localhost:smtp":        "malformed",
		"smtp://localhost:25/x":        "nothing may follow",
		"smtp://localhost?x":           "nothing may follow",
		"smtp://localhost?":            "nothing may follow",
		"smtp://localhost#x":           "nothing may follow",
		"smtp://local\x00host":         "malformed",
		"smtp://local\r\nhost":         "malformed",
		"smtps://user@mail.example":    "relay.credentials",
		"smtps://user:topsecret@x":     "relay.credentials",
		"smtps://user:topsecret@x:y@z": "relay.credentials",
		"smtp+unix://run/smtp":         "three slashes",
		"smtp+unix://":                 "three slashes",
		"smtp+unix:///":                "three slashes",
		"smtp+unix:///a\nb":            "control character",
		long:                           "longer than 107 bytes",
	} {
		var u HopURL
		err := u.UnmarshalText([]byte(in))
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%q: got %v (%v), want an error with %q", in, err, u, hint)
		}
		if err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%q: the error shows the password: %v", in, err)
		}
	}
}

func FuzzHopURL(f *testing.F) {
	for _, s := range []string{
		"smtp://localhost:25", "smtps://mail.example.org", "smtp+starttls://[2001:db8::1]:587", "smtp+unix:///run/smtp",
		"smtp://[fe80::1%25eth0]:25", "smtp://user:password@host", "smtp://", "://", "smtp://%zz", "smtp://a:b:c", "smtp://[::1]x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var u HopURL
		if u.UnmarshalText([]byte(in)) != nil {
			if u != (HopURL{}) {
				t.Errorf("%q is refused and still leaves %+v", in, u)
			}
			return
		}
		if strings.ContainsFunc(u.String(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q: a control character in %q", in, u)
		}
		if u.Network() == "tcp" && strings.ContainsAny(u.String(), "@ ?#") {
			t.Errorf("%q: %q", in, u)
		}
		var again HopURL
		if err := again.UnmarshalText([]byte(u.String())); err != nil || again != u {
			t.Errorf("%q becomes %q, and that %q (%v)", in, u, again, err)
		}
	})
}
