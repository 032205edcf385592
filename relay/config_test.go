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
	// RFC 6409 5.3.
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
