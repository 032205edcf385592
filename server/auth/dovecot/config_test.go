package dovecot

import "testing"

func TestAddress(t *testing.T) {
	good := map[string]Address{
		"/run/dovecot/auth-postern":      {"unix", "/run/dovecot/auth-postern"},
		"unix:/run/dovecot/auth-postern": {"unix", "/run/dovecot/auth-postern"},
		"inet:127.0.0.1:12345":           {"tcp", "127.0.0.1:12345"},
		"inet:[::1]:12345":               {"tcp", "[::1]:12345"},
		"inet:dovecot:12345":             {"tcp", "dovecot:12345"},
	}
	for text, want := range good {
		var a Address
		if err := a.UnmarshalText([]byte(text)); err != nil || a != want {
			t.Errorf("%q: %+v and %v, want %+v", text, a, err, want)
		}
	}
	for _, text := range []string{"", "private/auth", "inet:", "inet:127.0.0.1", "inet::12345", "inet:127.0.0.1:", "unix:auth"} {
		var a Address
		if err := a.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken for %+v", text, a)
		}
	}
}

func TestValidate(t *testing.T) {
	var keys []string
	bad := func(key, _ string) { keys = append(keys, key) }
	cfg := Defaults()
	cfg.Validate(bad)
	(&Config{}).Validate(bad)
	if len(keys) != 1 || keys[0] != "path" {
		t.Errorf("complaints about %q, want one about path", keys)
	}
}
