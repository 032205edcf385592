package pemfile

import (
	"crypto"
	"crypto/ecdh"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"postern/internal/fileperm"
)

// A Key is a private key and the line where its block begins.
type Key struct {
	crypto.Signer
	Line int
}

// Keys are the private keys of a file, at least one, in the order of the file.
type Keys struct {
	List     []Key
	Warnings []string // repairs, and blocks that are ignored
}

// ReadKeys reads a file with a private key. The error of a file with something else is a
// *Wrong. That of opening it contains an *fs.PathError. newKey is the step for a key of a kind
// that is not supported.
func ReadKeys(name, newKey string) (*Keys, error) {
	want := forKeys
	want.newKey = newKey
	f, err := read(name, want)
	if err != nil {
		return nil, err
	}
	k := &Keys{Warnings: f.warnings()}
	for _, b := range f.blocks {
		switch {
		case isKey(b.Type):
			key, err := f.key(b)
			if err != nil {
				return nil, err
			}
			k.List = append(k.List, Key{key, b.Line})
		case isCertificate(b.Type), strings.HasSuffix(b.Type, " PARAMETERS"):
			// one file for both, and what openssl ecparam -genkey writes
		case len(f.blocks) > 1:
			k.Warnings = append(k.Warnings, f.ignored(b))
		}
	}
	if len(k.List) == 0 {
		return nil, f.noKey(f.blocks[0])
	}
	return k, nil
}

func isKey(label string) bool { return strings.HasSuffix(label, "PRIVATE KEY") }

// noKey returns the error for a file without a private key, whose first block is b.
func (f *file) noKey(b Block) error {
	switch {
	case isCertificate(b.Type):
		return f.wrong(b, FoundCertificates, "name the file with the private key")
	case strings.HasSuffix(b.Type, "PUBLIC KEY"):
		return f.wrong(b, "a public key", "name the file that it was made from, which begins with \"-----BEGIN PRIVATE KEY-----\"")
	case strings.HasSuffix(b.Type, "CERTIFICATE REQUEST"):
		return f.wrong(b, "a certificate request", "name the key that the request was made with")
	}
	return fmt.Errorf("%s contains no private key, only %s; name the file with the key", f.name, types(f.blocks))
}

// key parses the private key in a block.
func (f *file) key(b Block) (crypto.Signer, error) {
	name := fileperm.ShellQuote(f.name)
	at := fmt.Sprintf("%s, line %d", f.name, b.Line)
	switch {
	case b.encrypted, b.Type == "ENCRYPTED PRIVATE KEY":
		return nil, fmt.Errorf("%s: the key is protected by a passphrase, which the server cannot ask for; "+
			"remove it with \"openssl pkey -in %s -out NEW\" and protect NEW by its mode (0640)", at, name)
	case b.Type == "OPENSSH PRIVATE KEY":
		return nil, fmt.Errorf("%s: the key is in the form of OpenSSH; run \"ssh-keygen -p -N '' -m PKCS8 -f %s\", which converts the file", at, name)
	case b.Type == "DSA PRIVATE KEY":
		return nil, f.unsupported(b, "DSA")
	}
	parsed, _ := parseDERKey(b.DER) // its error is that of one form only
	switch parsed := parsed.(type) {
	case *ecdh.PrivateKey:
		return nil, f.unsupported(b, "X25519")
	case crypto.Signer:
		return parsed, nil
	}
	algorithm := keyAlgorithm(b.DER)
	for _, known := range algorithmNames {
		if algorithm == known {
			return nil, f.unsupported(b, algorithm)
		}
	}
	return nil, f.damaged(b, errors.New("no key in PKCS#8, PKCS#1 or SEC 1 form"))
}

func (f *file) unsupported(b Block, algorithm string) error {
	return fmt.Errorf("%s, line %d: a key of the kind %s, which is not supported; %s", f.name, b.Line, algorithm, f.want.newKey)
}

// parseDERKey parses a key in PKCS#8, PKCS#1 or SEC 1 form, whatever its label: OpenSSL
// does so, too. The error is that of PKCS#8.
func parseDERKey(der []byte) (any, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	return nil, err
}
