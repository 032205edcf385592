package pemfile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

// pair returns a certificate and its key in PEM.
func pair(t testing.TB) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, text []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.pem")
	must(t, os.WriteFile(name, text, 0o600))
	return name
}

// openssl runs a command in dir.
func openssl(t *testing.T, dir, args string) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	cmd := exec.Command("openssl", strings.Fields(args)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("openssl %s: %v\n%s", args, err, out)
	}
}

// The files that can be used, with the number of certificates and the warning.
func TestReadCertificates(t *testing.T) {
	cert, key := pair(t)
	text := string(cert)
	body := strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(text, "-----BEGIN CERTIFICATE-----\n"), "-----END CERTIFICATE-----\n"), "\n", "")
	tests := []struct {
		name, text string
		n          int
		want       string // of the warnings; empty for none
	}{
		{"one", text, 1, ""},
		{"two", text + text, 2, ""},
		{"no line end at the end", strings.TrimSpace(text), 1, ""},
		{"glued", strings.TrimSpace(text) + text, 2, "the line end before BEGIN is missing"},
		{"glued three times", strings.Repeat(strings.TrimSpace(text), 3), 3, "the line end before BEGIN is missing"},
		{"CRLF", strings.ReplaceAll(text, "\n", "\r\n"), 1, ""},
		{"CR", strings.ReplaceAll(text, "\n", "\r"), 1, ""},
		{"blanks at the ends", strings.ReplaceAll(text, "\n", " \t\n"), 1, ""},
		{"text around", "Certificate:\n    Data: -- BEGIN here\n" + text + "\nmore: -----\n" + text, 2, ""},
		{"mark", mark + text, 1, "byte order mark"},
		{"mark between", text + mark + text, 2, "byte order mark"},
		{"indented", strings.ReplaceAll("\n"+text, "\n", "\n  "), 1, "blanks before BEGIN"},
		{"one line", "-----BEGIN CERTIFICATE-----" + body + "-----END CERTIFICATE-----", 1, ""},
		{"backslash n", strings.ReplaceAll(text, "\n", `\n`), 1, "as two characters"},
		{"old label", strings.ReplaceAll(text, "CERTIFICATE", "X509 CERTIFICATE"), 1, ""},
		{"with its key", text + string(key), 1, ""},
		{"with parameters", text + "-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n", 1, `"DH PARAMETERS" is ignored`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ReadCertificates(write(t, []byte(tt.text)))
			must(t, err)
			warnings := strings.Join(c.Warnings, "\n")
			if len(c.List) != tt.n || !strings.Contains(warnings, tt.want) || (tt.want == "") != (warnings == "") {
				t.Errorf("%d certificates, warnings %q; want %d, %q", len(c.List), warnings, tt.n, tt.want)
			}
		})
	}
}

// The files that cannot be used. Each answer has the cause, and no other's.
func TestRefusedCertificates(t *testing.T) {
	cert, key := pair(t)
	text := string(cert)
	lines := strings.Split(text, "\n")
	utf16le := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(text)) {
		utf16le = append(utf16le, byte(u), byte(u>>8))
	}
	block, _ := pem.Decode(cert)
	keyBlock, _ := pem.Decode(key)
	tests := []struct {
		name string
		text []byte
		want string
	}{
		{"empty", nil, "is empty"},
		{"blank", []byte("\n \n"), "is empty"},
		{"nonsense", []byte("<html>"), "no block in PEM form"},
		{"UTF-16", utf16le, "iconv -f UTF-16LE"},
		{"UTF-16 without mark", utf16le[2:], "iconv -f UTF-16LE"},
		{"DER", block.Bytes, "openssl x509 -inform DER"},
		{"key in DER", keyBlock.Bytes, "is a private key in DER form"},
		{"key", key, "a private key instead of a certificate"},
		{"base64 of PEM", []byte("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"), "base64 -d"},
		{"bare base64", []byte(strings.Join(lines[1:len(lines)-2], "\n")), "base64 without the lines of PEM"},
		{"no end", []byte(strings.Join(lines[:4], "\n")), "line 1: the block \"CERTIFICATE\" has no line"},
		{"second without end", []byte(text + strings.Join(lines[:4], "\n") + "\n" + text), "has no line \"-----END CERTIFICATE-----\" before the next one"},
		{"no begin", []byte(strings.Join(lines[1:], "\n")), "without a line \"-----BEGIN CERTIFICATE"},
		{"no begin of the second", []byte(text + strings.Join(lines[1:], "\n")), "without a line \"-----BEGIN CERTIFICATE"},
		{"other end", []byte(strings.Replace(text, "END CERT", "END TRUSTED CERT", 1)), "ends as \"TRUSTED CERTIFICATE\""},
		{"four dashes", []byte(text[1:]), "BEGIN has 4 dashes"},
		{"four dashes at the end", []byte(strings.TrimSuffix(text, "-\n")), "END has 4 dashes"},
		{"long dashes", []byte(strings.ReplaceAll(text, "-----", "—–")), "word processors"},
		{"blank after the dashes", []byte(strings.Replace(text, "-----BEGIN", "----- BEGIN", 1)), "a blank between BEGIN"},
		{"line lost", []byte(strings.Join(append(append([]string{}, lines[:2]...), lines[3:]...), "\n")), "line 1: the block \"CERTIFICATE\" is damaged"},
		{"character lost", []byte(strings.Replace(text, lines[2], lines[2][1:], 1)), "lost characters"},
		{"not base64", []byte(strings.Replace(text, lines[2], "<br>"+lines[2], 1)), "line 3: not base64"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadCertificates(write(t, tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			for j, other := range tests {
				if i != j && other.want != tt.want && strings.Contains(err.Error(), other.want) {
					t.Errorf("%v also is the answer to %q", err, other.name)
				}
			}
		})
	}
}

// What openssl writes in other forms.
func TestFilesOfOpenSSL(t *testing.T) {
	dir := t.TempDir()
	cert, key := pair(t)
	must(t, os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600))
	tests := []struct{ command, cert, key string }{
		{"pkcs12 -export -in cert.pem -inkey key.pem -passout pass:x -out out", "pkcs12 -nokeys", "pkcs12 -nocerts -nodes"},
		{"crl2pkcs7 -nocrl -certfile cert.pem -outform DER -out out", "pkcs7 -inform DER", ""},
		{"crl2pkcs7 -nocrl -certfile cert.pem -out out", "pkcs7 -print_certs", "only \"PKCS7\""},
		{"req -new -key key.pem -subj /CN=x -out out", "certificate request", "certificate request"},
		{"req -new -key key.pem -subj /CN=x -outform DER -out out", "certificate request in DER", ""},
		{"x509 -in cert.pem -trustout -out out", "openssl x509 -in", "only \"TRUSTED CERTIFICATE\""},
		{"pkey -in key.pem -pubout -out out", "a public key", "a public key"},
		{"pkey -in key.pem -aes128 -passout pass:x -out out", "a private key instead", "passphrase"},
		{"pkey -in key.pem -aes128 -passout pass:x -traditional -out out", "a private key instead", "passphrase"},
		{"pkey -in key.pem -outform DER -out out", "private key in DER", "pkey -inform DER"},
		{"pkcs8 -topk8 -in key.pem -passout pass:x -outform DER -out out", "private key in DER", "pkey -inform DER"},
		{"x509 -in cert.pem -outform DER -out out", "x509 -inform DER", "a certificate in DER form, not a private key"},
		{"x509 -in cert.pem -out out", "", "a certificate instead of a private key"},
		{"genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out out", "", "secp256k1"},
		{"ecparam -name brainpoolP256r1 -genkey -out out", "", "brainpoolP256r1"},
		{"genpkey -algorithm ED448 -out out", "", "Ed448"},
		{"genpkey -algorithm X25519 -out out", "", "X25519"},
		{"genpkey -algorithm RSA-PSS -out out", "", "RSA-PSS"},
		{"dsaparam -genkey -noout -out out 1024", "", "DSA"},
	}
	for _, tt := range tests {
		t.Run(tt.command, func(t *testing.T) {
			openssl(t, dir, tt.command)
			out := filepath.Join(dir, "out")
			must(t, os.Chmod(out, 0o600))
			if tt.cert != "" {
				if _, err := ReadCertificates(out); err == nil || !strings.Contains(err.Error(), tt.cert) {
					t.Errorf("as a certificate: %v, want %q", err, tt.cert)
				}
			}
			if tt.key != "" {
				if _, err := ReadKeys(out, "make one"); err == nil || !strings.Contains(err.Error(), tt.key) {
					t.Errorf("as a key: %v, want %q", err, tt.key)
				}
			}
		})
	}
	for _, command := range []string{
		"ecparam -name prime256v1 -genkey -out out", // with EC PARAMETERS before the key
		"genrsa -traditional -out out 2048",
		"genpkey -algorithm ED25519 -out out",
	} {
		openssl(t, dir, command)
		if k, err := ReadKeys(filepath.Join(dir, "out"), ""); err != nil || len(k.Warnings) > 0 {
			t.Errorf("%s: %v", command, err)
		}
	}
}

// The conversions that errors ask for give a usable key.
func TestOpenSSHKey(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	name := filepath.Join(t.TempDir(), "id")
	run := func(args ...string) {
		if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run("-q", "-t", "ecdsa", "-N", "", "-f", name)
	if _, err := ReadKeys(name, ""); err == nil || !strings.Contains(err.Error(), "ssh-keygen -p -N '' -m PKCS8") {
		t.Fatal(err)
	}
	run("-p", "-N", "", "-m", "PKCS8", "-f", name)
	if _, err := ReadKeys(name, ""); err != nil {
		t.Error(err)
	}
	if _, err := ReadKeys(name+".pub", ""); err == nil || !strings.Contains(err.Error(), "every user") && !strings.Contains(err.Error(), "public key of SSH") {
		t.Error(err)
	}
}

// The files are distinguished for the caller that has two of them.
func TestWrong(t *testing.T) {
	cert, key := pair(t)
	var w *Wrong
	if _, err := ReadCertificates(write(t, key)); !errors.As(err, &w) || w.Found != FoundKey {
		t.Errorf("%v", err)
	}
	if _, err := ReadKeys(write(t, cert), ""); !errors.As(err, &w) || w.Found != FoundCertificates {
		t.Errorf("%v", err)
	}
}

func TestReadAuthorities(t *testing.T) {
	cert, key := pair(t)
	broken := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	for _, tt := range []struct {
		name           string
		text           []byte
		warnings       int
		want, wantWarn string
	}{
		{"one", cert, 0, "", ""},
		{"glued", append(bytes.Clone(bytes.TrimSpace(cert)), cert...), 1, "", "line end before BEGIN"},
		{"one of two damaged", append(bytes.Clone(broken), cert...), 1, "", "line 1: the block \"CERTIFICATE\" is damaged"},
		{"damaged", broken, 0, "is damaged", ""},
		{"key", key, 0, "a private key instead of the certificates of authorities", ""},
		{"nonsense", []byte("nonsense"), 0, "no block in PEM form", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings, err := ReadAuthorities(write(t, tt.text))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if len(warnings) != tt.warnings || !strings.Contains(strings.Join(warnings, "\n"), tt.wantWarn) {
				t.Errorf("warnings %q", warnings)
			}
		})
	}
}

// No input makes the reader fail otherwise than with an error, and each BEGIN is accounted
// for: by a block, or by an error.
func FuzzScan(f *testing.F) {
	cert, key := pair(f)
	f.Add(string(cert) + string(key))
	f.Add(strings.TrimSpace(string(cert)) + string(cert))
	f.Add("-----BEGIN X-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END X-----")
	f.Fuzz(func(t *testing.T, text string) {
		s := scan(text)
		if n := strings.Count(text, "-----BEGIN CERTIFICATE-----"); s.err == nil && len(s.blocks) < n {
			t.Errorf("%d blocks, want at least %d", len(s.blocks), n)
		}
		file := &file{name: "x", want: forCertificates}
		_ = file.parse([]byte(text))
	})
}
