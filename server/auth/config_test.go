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
	for text, want := range map[string]string{
		"192.0.2.1":        "192.0.2.1/32",
		"::ffff:192.0.2.1": "192.0.2.1/32",
		"192.0.2.0/24":     "192.0.2.0/24",
		"2001:db8::/32":    "2001:db8::/32",
		"2001:db8::25":     "2001:db8::25/128",
		"fe80::/10":        "fe80::/10",
	} {
		var n Network
		if err := n.UnmarshalText([]byte(text)); err != nil || n != Network(netip.MustParsePrefix(want)) {
			t.Errorf("%s: %v, %v; want %s", text, netip.Prefix(n), err, want)
		}
	}
}

func TestNetworkErrorsSayWhatToWrite(t *testing.T) {
	tests := map[string]string{
		"192.0.2.1/24":         "192.0.2.0/24 for the network, or 192.0.2.1 for the address",
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

// The properties are those that Dovecot 2.3 states of its mechanisms.
func TestSecurityOptions(t *testing.T) {
	mechanisms := map[string]MechanismProperties{
		"PLAIN":         MechanismPlaintext,
		"CRAM-MD5":      MechanismDictionary | MechanismActive,
		"DIGEST-MD5":    MechanismDictionary | MechanismActive | MechanismMutualAuth,
		"SCRAM-SHA-256": MechanismMutualAuth,
		"ANONYMOUS":     MechanismAnonymous,
		"SRP":           MechanismForwardSecrecy | MechanismMutualAuth,
	}
	tests := []struct {
		options SecurityOptions
		allowed []string
	}{
		{nil, []string{"PLAIN", "CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-256", "ANONYMOUS", "SRP"}},
		{DefaultSecurityOptions(), []string{"PLAIN", "CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-256", "SRP"}},
		{SecurityOptions{NoPlaintext}, []string{"CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-256", "ANONYMOUS", "SRP"}},
		{SecurityOptions{NoActive}, []string{"PLAIN", "SCRAM-SHA-256", "ANONYMOUS", "SRP"}},
		{SecurityOptions{NoAnonymous, NoDictionary}, []string{"PLAIN", "SCRAM-SHA-256", "SRP"}},
		{SecurityOptions{MutualAuth}, []string{"DIGEST-MD5", "SCRAM-SHA-256", "SRP"}},
		{SecurityOptions{MutualAuth, ForwardSecrecy}, []string{"SRP"}},
		{SecurityOptions{"nonsense"}, nil},
		{SecurityOptions{NoAnonymous, "nonsense"}, nil},
	}
	for _, tt := range tests {
		want := make(map[string]bool)
		for _, name := range tt.allowed {
			want[name] = true
		}
		for name, properties := range mechanisms {
			if got := tt.options.Allow(properties); got != want[name] {
				t.Errorf("%v allow %s: %v, want %v", tt.options, name, got, want[name])
			}
		}
	}
}

func TestSecurityOptionText(t *testing.T) {
	var o SecurityOption
	if err := o.UnmarshalText([]byte("NoPlaintext")); err != nil || o != NoPlaintext {
		t.Errorf("got %q and %v", o, err)
	}
	if err := o.UnmarshalText([]byte("noplain")); err == nil {
		t.Error("noplain is no option of Postfix, and was accepted")
	}
}
