package hash

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/xdg-go/scram"
)

const (
	salt16   = "W22ZaJ0SNY7soEsUEjb6gQ=="
	scramKey = "0UyNb/aUgNz9cMVocRpmC26+qybBm4s3VJbO56Pg2P0="
)

// scramLine returns a line in Dovecot's form. No password matches its keys.
func scramLine(iterations, salt string) string {
	return scramName + strings.Join([]string{iterations, salt, scramKey, scramKey}, ",")
}

// The client of the library computes the same keys.
func TestScramKeysAgreeWithTheClient(t *testing.T) {
	tests := []struct{ name, password string }{
		{"ASCII", "pencil"},
		{"composed", "caf\u00e9"},
		{"decomposed", "cafe\u0301"},
		{"ligature", "\ufb01sh"},
		{"soft hyphen", "pen\u00adcil"},
	}
	for _, tt := range tests {
		stored, err := New("scram-sha-256", tt.password)
		if err != nil {
			t.Fatal(err)
		}
		h, err := Parse(stored)
		if err != nil {
			t.Fatal(err)
		}
		keys, ok := h.ScramKeys()
		if !ok || keys.Shape() != DefaultScramShape() || keys.Iterations > CyrusMaxIterations {
			t.Fatalf("%s: %v, shape %+v", tt.name, ok, keys.Shape())
		}
		client, err := scram.SHA256.NewClient("user", tt.password, "")
		if err != nil {
			t.Fatal(err)
		}
		want, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(keys.Salt), Iters: keys.Iterations})
		if err != nil {
			t.Fatal(err)
		}
		if string(keys.StoredKey) != string(want.StoredKey) || string(keys.ServerKey) != string(want.ServerKey) {
			t.Errorf("%s: the client computes other keys", tt.name)
		}
	}
}

func TestScramKeysMatchEveryFormOfThePassword(t *testing.T) {
	stored, err := New("scram-sha-256", "caf\u00e9 \u00bd")
	if err != nil {
		t.Fatal(err)
	}
	h, err := Parse(stored)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{
		"caf\u00e9 \u00bd":         true,
		"cafe\u0301\u00a01\u20442": true,
		"caf\u00c9 \u00bd":         false,
		"caf\xe9 \xbd":             false,
		"\u00ad":                   false,
		"":                         false,
	}
	for password, want := range tests {
		if got, err := h.Matches(password); got != want || err != nil {
			t.Errorf("%+q: %v, %v", password, got, err)
		}
	}
}

func TestScramNeedsBothKeys(t *testing.T) {
	stored, err := New("scram-sha-256", password)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Split(stored, ",")
	for i := range fields[2:] {
		spoilt := strings.Split(stored, ",")
		spoilt[2+i] = scramKey
		h, err := Parse(strings.Join(spoilt, ","))
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := h.Matches(password); ok || err != nil {
			t.Errorf("matches without key %d: %v", i, err)
		}
	}
}

func TestPasswordsThatSASLprepForbidsStayAsTheyAre(t *testing.T) {
	for _, password := range []string{"\U0001f511", "caf\xe9", "a\x07\u00e9"} {
		stored, err := New("scram-sha-256", password)
		if err != nil {
			t.Fatal(err)
		}
		h, err := Parse(stored)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := h.Matches(password); !ok || err != nil {
			t.Errorf("%+q: %v, %v", password, ok, err)
		}
	}
	if _, err := New("scram-sha-256", "\u00ad"); err == nil || !strings.Contains(err.Error(), "SASLprep") {
		t.Errorf("a password of nothing: %v", err)
	}
}

func TestOtherSchemesHaveNoScramKeys(t *testing.T) {
	for _, stored := range []string{bcrypt05, "", "!" + scramLine("4096", salt16)} {
		h, err := Parse(stored)
		if err != nil {
			t.Fatal(err)
		}
		if keys, ok := h.ScramKeys(); ok || keys.StoredKey != nil {
			t.Errorf("%q has keys", stored)
		}
	}
}

func TestScramFormIsStrict(t *testing.T) {
	if _, err := Parse(scramLine("4096", salt16)); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(scramKey)
	if err != nil || len(raw) != 32 {
		t.Fatal(len(raw), err)
	}
	for _, spoilt := range []string{" ", "\n", ",", "=", ":"} {
		if _, err := Parse(scramLine("4096", salt16) + spoilt); err == nil {
			t.Errorf("%q at the end is accepted", spoilt)
		}
	}
}
