package sign

import (
	"crypto"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFile(t *testing.T, name string, text []byte, mode fs.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func readTestdata(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestLoad(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"pkcs1.pem", ""},
		{"weak.pem", "RSA key of 512 bits"},
		{"ec.pem", "only RSA and Ed25519"},
		{"encrypted.pem", "protected by a passphrase"},
		{"encrypted1.pem", "protected by a passphrase"},
		{"public.pem", "a public key instead of a private key"},
		{"../key.go", "no block in PEM form"},
	} {
		t.Run(c.file, func(t *testing.T) {
			k := Key{Domain: "example.org", Selector: "s", File: writeFile(t, "key.pem", readTestdata(t, c.file), 0o640)}
			_, err := k.load()
			if c.want == "" && err == nil {
				return
			}
			if err == nil || c.want == "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestLoadRefusesWritableByAll(t *testing.T) {
	k := Key{Domain: "example.org", Selector: "s", File: writeFile(t, "key.pem", readTestdata(t, "pkcs1.pem"), 0o602)}
	if err := os.Chmod(k.File, 0o602); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	if _, err := k.load(); err == nil || !strings.Contains(err.Error(), "chmod o-w "+k.File) {
		t.Errorf("%v", err)
	}
	k.File = filepath.Join(t.TempDir(), "missing")
	if _, err := k.load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestValidate(t *testing.T) {
	good := Key{Domain: "example.org", Selector: "s1.mail", File: "key.pem"}
	for _, c := range []struct {
		name string
		keys []Key
		want string
	}{
		{"none", nil, ""},
		{"good", []Key{good}, ""},
		{"two selectors", []Key{good, {"example.org", "s2", "x"}}, ""},
		{"international", []Key{{"b\u00fccher.example", "s", "x"}}, ""},
		{"empty", []Key{{}}, "dkim[0].domain dkim[0].selector dkim[0].key"},
		{"odd names", []Key{good, {"user@example.org", "s;p=", "x"}}, "dkim[1].domain dkim[1].selector"},
		{"twice", []Key{good, {"EXAMPLE.org", "S1.mail", "x"}}, "dkim[1].selector"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			Validate(c.keys, func(key, why string) { got = append(got, key) })
			if strings.Join(got, " ") != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestGenerateKey(t *testing.T) {
	for _, a := range []Algorithm{RSA, Ed25519} {
		t.Run(string(a), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "key.pem")
			public, err := GenerateKey(file, a)
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}
			k := Key{Domain: "example.org", Selector: "s", File: file}
			private, err := k.load()
			if err != nil {
				t.Fatal(err)
			}
			if !private.signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
				t.Error("the file holds another key")
			}
			if private.weak != "" {
				t.Error(private.weak)
			}
			if _, err := GenerateKey(file, a); !errors.Is(err, fs.ErrExist) {
				t.Errorf("over an existing file: %v", err)
			}
		})
	}
	if _, err := GenerateKey(filepath.Join(t.TempDir(), "key.pem"), "dsa"); err == nil {
		t.Error("dsa: no error")
	}
}

// In a zone file the record consists of strings that DNS allows, and together they are the
// text.
func TestRecord(t *testing.T) {
	public, err := GenerateKey(filepath.Join(t.TempDir(), "key.pem"), RSA)
	if err != nil {
		t.Fatal(err)
	}
	r, err := TXTRecord("Example.ORG", "s1", public)
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "s1._domainkey.example.org" || !strings.HasPrefix(r.Text, "v=DKIM1; k=rsa; p=MII") {
		t.Errorf("%q %q", r.Name, r.Text)
	}
	zone := r.String()
	head, rest, _ := strings.Cut(zone, "(")
	if head != "s1._domainkey.example.org. IN TXT " {
		t.Errorf("%q", head)
	}
	var parts []string
	for i, part := range strings.Split(rest, `"`) {
		if i%2 == 1 {
			parts = append(parts, part)
		}
	}
	if strings.Join(parts, "") != r.Text || len(parts) < 2 {
		t.Errorf("%q", zone)
	}
	for _, part := range parts {
		if len(part) > 255 {
			t.Errorf("a string of %d bytes", len(part))
		}
	}
	if _, err := TXTRecord("example.org", "s", net.IPv4zero); err == nil {
		t.Error("no error for a value that is not a key")
	}
}
