package auth

import "testing"

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
