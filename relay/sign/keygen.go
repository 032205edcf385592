package sign

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
)

// An Algorithm is a kind of key.
type Algorithm string

const (
	RSA     Algorithm = "rsa"     // 2048 bits; every verifier knows it
	Ed25519 Algorithm = "ed25519" // RFC 8463; few verifiers do yet, so beside RSA
)

// GenerateKey makes a private key, writes it to a new file that only its owner
// can read, and returns its public half for TXTRecord. A file that exists is
// left alone and is an error (fs.ErrExist).
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
	if err := writeKey(f, der); err != nil {
		os.Remove(file) // half a key is of no use
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
	return nil, fmt.Errorf("unknown kind of DKIM key %q: %s or %s", a, RSA, Ed25519)
}

func writeKey(f *os.File, der []byte) error {
	err := pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if serr := f.Sync(); err == nil {
		err = serr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// A Record is a TXT record of DNS.
type Record struct {
	Name string // without a dot at its end
	Text string // in one piece
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
		return Record{}, fmt.Errorf("DKIM has no use for a key of type %T", public)
	}
	return Record{Name: recordName(asciiDomain(domain), selector), Text: text}, nil
}

func recordName(domain, selector string) string { return selector + "._domainkey." + domain }

// maxString bounds one string of a TXT record (RFC 1035, section 3.3.14).
const maxString = 255

// String spells the record as in a zone file. The verifier joins its strings
// without a blank (RFC 6376, section 3.6.2.2).
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
