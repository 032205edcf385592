package auth

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestDefaultsAreValid(t *testing.T) {
	c := Defaults()
	c.Validate(func(key, why string) { t.Errorf("%s: %s", key, why) })
}

func TestValidateNamesTheKey(t *testing.T) {
	tests := map[string]func(*Config){
		"failures_per_connection": func(c *Config) { c.FailuresPerConnection = 0 },
		"hash_wait":               func(c *Config) { c.HashWait = 0 },
		"penalty_wait":            func(c *Config) { c.PenaltyWait = 2 * time.Minute },
		"realm":                   func(c *Config) { c.Realm = "@example.org" },
		"mechanisms":              func(c *Config) { c.Mechanisms = nil },
	}
	for want, spoil := range tests {
		c := Defaults()
		spoil(&c)
		var got []string
		c.Validate(func(key, _ string) { got = append(got, key) })
		if len(got) != 1 || got[0] != want {
			t.Errorf("complains of %v, want %s", got, want)
		}
	}
}

func TestNetwork(t *testing.T) {
	tests := []struct{ text, in, out string }{
		{"192.0.2.1", "192.0.2.1", "192.0.2.2"},
		{"192.0.2.0/24", "::ffff:192.0.2.77", "192.0.3.1"},
		{"2001:db8::/32", "2001:db8:1::1", "2001:db9::1"},
		{"fe80::/10", "fe80::1%eth0", "2001:db8::1"},
	}
	for _, tt := range tests {
		var n Network
		if err := n.UnmarshalText([]byte(tt.text)); err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if !n.Contains(netip.MustParseAddr(tt.in)) || n.Contains(netip.MustParseAddr(tt.out)) {
			t.Errorf("%s: holds %s %v, %s %v", n, tt.in, n.Contains(netip.MustParseAddr(tt.in)),
				tt.out, n.Contains(netip.MustParseAddr(tt.out)))
		}
	}
}

func TestNetworkErrorsSayWhatToWrite(t *testing.T) {
	tests := map[string]string{
		"192.0.2.1/24":         "192.0.2.0/24 is the network, 192.0.2.1/32 the address",
		"office":               "write it as",
		"192.0.2.0/33":         "write it as",
		"::ffff:192.0.2.0/120": "write it as",
		"fe80::1%eth0":         "write it as",
		"":                     "write it as",
	}
	for text, want := range tests {
		var n Network
		if err := n.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want ...%s...", text, err, want)
		}
	}
}

func TestRealm(t *testing.T) {
	for realm, ok := range map[string]bool{
		"": true, "example.org": true, "xn--bcher-kva.example": true, "mailhost": true,
		"@": false, "a b": false, "example.org\n": false, "a@example.org": false,
	} {
		c := Defaults()
		c.Realm = realm
		c.Validate(func(key, why string) {
			if ok {
				t.Errorf("%q: %s: %s", realm, key, why)
			}
			ok = true
		})
		if !ok {
			t.Errorf("%q: no complaint", realm)
		}
	}
}

func TestMechanismName(t *testing.T) {
	for text, want := range map[string]MechanismName{
		"PLAIN": "PLAIN", "login": "LOGIN", "Scram-SHA-256": "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS": "SCRAM-SHA-256-PLUS",
		"CRAM-MD5": "", "": "", "SCRAM-SHA-1": "",
	} {
		var m MechanismName
		if err := m.UnmarshalText([]byte(text)); m != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, m, err)
		}
	}
}
