package sign

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/emersion/go-msgauth/dkim"

	"postern/internal/fileperm"
)

// A Key is one [[relay.dkim]] table of the configuration.
type Key struct {
	Domain   string `toml:"domain"`   // domain of the From addresses it signs for; d=
	Selector string `toml:"selector"` // its name in DNS: selector._domainkey.domain; s=
	File     string `toml:"key"`      // PEM file with the private key, RSA or Ed25519
}

// Validate tells bad of each key whose value cannot work. The names it uses
// are relative to [relay]: "dkim[0].domain".
func Validate(keys []Key, bad func(key, why string)) {
	seen := map[string]bool{}
	for i, k := range keys {
		in := func(key, why string) { bad(fmt.Sprintf("dkim[%d].%s", i, key), why) }
		if !isName(asciiDomain(k.Domain)) {
			in("domain", "not a domain: write the one behind the @ of the From addresses to sign for, such as example.org")
		}
		if !isName(k.Selector) {
			in("selector", "not a selector: write the name under which the key stands in DNS, the first part of NAME._domainkey.DOMAIN")
		}
		if k.File == "" {
			in("key", "no file: make a key with \"postern dkim keygen DOMAIN\" and write its path here")
		}
		name := strings.ToLower(recordName(asciiDomain(k.Domain), k.Selector))
		if seen[name] {
			in("selector", fmt.Sprintf("%s is there twice, and DNS has one key for it: give each key its own selector", name))
		}
		seen[name] = true
	}
}

// isName recognises a domain name or a selector (RFC 6376, section 3.1), which
// is made of labels too.
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
	weak             string // why a better key is advised
}

func (k *privateKey) options(names []string) *dkim.SignOptions {
	return &dkim.SignOptions{
		Domain:                 k.domain,
		Selector:               k.selector,
		Signer:                 k.signer,
		Hash:                   crypto.SHA256,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed,
		BodyCanonicalization:   dkim.CanonicalizationRelaxed,
		HeaderKeys:             names,
	}
}

func (k *Key) load() (*privateKey, error) {
	text, err := fileperm.ReadSecret(k.File, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("DKIM key of %s: %w", k.Domain, err)
	}
	signer, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("DKIM key of %s: %s: %w", k.Domain, k.File, err)
	}
	return &privateKey{
		domain:   asciiDomain(k.Domain),
		selector: k.Selector,
		signer:   signer,
		weak:     weakness(signer),
	}, nil
}

// maxKeyFile keeps a wrong path from being read for ever.
const maxKeyFile = 64 << 10

// RFC 8301, section 3.2: signers use at least 1024 and should use 2048 bits,
// and verifiers need not look at more than 4096.
const (
	minBits     = 1024
	advisedBits = 2048
	maxBits     = 4096
)

func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New(`not in PEM format: it should begin with "-----BEGIN PRIVATE KEY-----"`)
	}
	switch {
	case block.Headers["DEK-Info"] != "" || block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the key is encrypted: take the passphrase away with \"openssl pkey\"")
	case block.Type == "RSA PRIVATE KEY":
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		return usable(key)
	case block.Type == "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		return usable(key)
	}
	return nil, fmt.Errorf("it holds a %q, not a private key in PKCS#1 or PKCS#8: make one with \"postern dkim keygen\"", block.Type)
}

// usable returns the key if DKIM knows its kind and verifiers take its size.
func usable(key any) (crypto.Signer, error) {
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < minBits || bits > maxBits {
			return nil, fmt.Errorf("an RSA key of %d bits, which verifiers do not accept (RFC 8301: %d to %d): make one of %d with \"postern dkim keygen\"",
				bits, minBits, maxBits, advisedBits)
		}
		return key, nil
	}
	return nil, fmt.Errorf("DKIM has no use for a key of type %T, only for RSA and Ed25519", key)
}

func weakness(key crypto.Signer) string {
	if key, ok := key.(*rsa.PrivateKey); ok && key.N.BitLen() < advisedBits {
		return fmt.Sprintf("RSA with %d bits; RFC 8301 advises %d", key.N.BitLen(), advisedBits)
	}
	return ""
}
