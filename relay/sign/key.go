package sign

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"postern/internal/access"
	"postern/internal/fileperm"
	"postern/internal/pemfile"
)

// A Key is one [[relay.dkim]] table of the configuration.
type Key struct {
	Domain   string `toml:"domain"`   // domain of the From addresses it signs for; d=
	Selector string `toml:"selector"` // its name in DNS: selector._domainkey.domain; s=
	File     string `toml:"key"`      // PEM file with the private key, RSA or Ed25519
}

// Validate calls bad for each key of the configuration whose value cannot work. The names
// of the keys are relative to [relay]: "dkim[0].domain".
func Validate(keys []Key, bad func(key, why string)) {
	seen := map[string]bool{}
	for i, k := range keys {
		in := func(key, why string) { bad(fmt.Sprintf("dkim[%d].%s", i, key), why) }
		if !isName(asciiDomain(k.Domain)) {
			in("domain", "not a domain: write the domain of the From addresses to sign for, such as example.org")
		}
		if !isName(k.Selector) {
			in("selector", "not a selector: write the name of the key in DNS, the first part of NAME._domainkey.DOMAIN")
		}
		if k.File == "" {
			in("key", "no file: run \"postern dkim keygen DOMAIN\" to make a key, and write its path here")
		}
		name := strings.ToLower(recordName(asciiDomain(k.Domain), k.Selector))
		if seen[name] {
			in("selector", fmt.Sprintf("%s is listed twice, and DNS has one key for it: give each key another selector", name))
		}
		seen[name] = true
	}
}

// Access adds the files of keys, the table "dkim", to list. key makes the full name of a key.
func Access(keys []Key, key func(string) string, list *access.List) {
	for i, k := range keys {
		list.ReadAs(fileperm.Secret, key(fmt.Sprintf("dkim[%d].key", i)), k.File)
	}
}

// isName reports whether s is a domain name or a selector, which consists of labels, too
// (RFC 6376, section 3.1).
func isName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		odd := strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		})
		if label == "" || len(label) > 63 || odd || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// A privateKey is a Key with its file read.
type privateKey struct {
	domain, selector string // as in d= and s=
	signer           crypto.Signer
	weak             string   // why another key is recommended
	repairs          []string // what is wrong in the file and was repaired
}

func (k *Key) load() (*privateKey, error) {
	keys, err := pemfile.ReadKeys(k.File, "run \"postern dkim keygen\" to make another one")
	if err != nil {
		return nil, fmt.Errorf("DKIM key of %s: %w", k.Domain, err)
	}
	if n := len(keys.List); n > 1 {
		return nil, fmt.Errorf("DKIM key of %s: %s contains %d keys, the second one in line %d; write each key to a file of its own", k.Domain, k.File, n, keys.List[1].Line)
	}
	signer, err := usable(keys.List[0].Signer)
	if err != nil {
		return nil, fmt.Errorf("DKIM key of %s: %s: %w", k.Domain, k.File, err)
	}
	weak := ""
	if key, ok := signer.(*rsa.PrivateKey); ok && key.N.BitLen() < advisedBits {
		weak = fmt.Sprintf("RSA with %d bits; RFC 8301 recommends %d", key.N.BitLen(), advisedBits)
	}
	return &privateKey{
		domain:   asciiDomain(k.Domain),
		selector: k.Selector,
		signer:   signer,
		weak:     weak,
		repairs:  keys.Warnings,
	}, nil
}

// RFC 8301, section 3.2: signers use at least 1024 and should use 2048 bits, and verifiers
// need not support more than 4096.
const (
	minBits     = 1024
	advisedBits = 2048
	maxBits     = 4096
)

// usable returns the key if DKIM supports its kind and verifiers accept its size.
func usable(key any) (crypto.Signer, error) {
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < minBits || bits > maxBits {
			return nil, fmt.Errorf("an RSA key of %d bits, which verifiers do not accept (RFC 8301: %d to %d): run \"postern dkim keygen\" to make one of %d bits",
				bits, minBits, maxBits, advisedBits)
		}
		return key, nil
	}
	return nil, fmt.Errorf("DKIM does not support a key of type %T, only RSA and Ed25519: run \"postern dkim keygen\" to make another one", key)
}

// An Algorithm is a kind of key.
type Algorithm string

const (
	RSA     Algorithm = "rsa"     // 2048 bits; all verifiers support it
	Ed25519 Algorithm = "ed25519" // RFC 8463; few verifiers support it yet, so use RSA as well
)

// GenerateKey makes a private key, writes it to a new file that only its owner can read, and
// returns its public key for TXTRecord. If the file exists, it returns fs.ErrExist.
func GenerateKey(file string, a Algorithm) (crypto.PublicKey, error) {
	key, err := newKey(a)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(file) // it may be incomplete
		return nil, err
	}
	return key.Public(), nil
}

func newKey(a Algorithm) (crypto.Signer, error) {
	switch a {
	case RSA:
		return rsa.GenerateKey(rand.Reader, advisedBits)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown kind of DKIM key %q: use %s or %s", a, RSA, Ed25519)
}

// A Record is a TXT record of DNS.
type Record struct {
	Name string // without a dot at its end
	Text string // not split into strings
}

// TXTRecord returns the record that publishes a key (RFC 6376, section 3.6.1).
// It fails for a public key that is neither *rsa.PublicKey nor
// ed25519.PublicKey.
func TXTRecord(domain, selector string, public crypto.PublicKey) (Record, error) {
	text := "v=DKIM1; k="
	switch key := public.(type) {
	case ed25519.PublicKey: // RFC 8463, section 4: the bare key
		text += "ed25519; p=" + base64.StdEncoding.EncodeToString(key)
	case *rsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return Record{}, err
		}
		text += "rsa; p=" + base64.StdEncoding.EncodeToString(der)
	default:
		return Record{}, fmt.Errorf("DKIM does not support a key of type %T", public)
	}
	return Record{Name: recordName(asciiDomain(domain), selector), Text: text}, nil
}

// Record returns the record that publishes the key in its file.
func (k *Key) Record() (Record, error) {
	private, err := k.load()
	if err != nil {
		return Record{}, err
	}
	return TXTRecord(private.domain, private.selector, private.signer.Public())
}

func recordName(domain, selector string) string { return selector + "._domainkey." + domain }

// maxString bounds one string of a TXT record (RFC 1035, section 3.3.14).
const maxString = 255

// String returns the record as in a zone file. Verifiers join its strings without a blank
// (RFC 6376, section 3.6.2.2).
func (r Record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s. IN TXT (", r.Name)
	for text := r.Text; text != ""; {
		n := min(len(text), maxString)
		fmt.Fprintf(&b, "\n\t\"%s\"", text[:n])
		text = text[n:]
	}
	b.WriteString(" )\n")
	return b.String()
}
