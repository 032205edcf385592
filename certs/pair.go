package certs

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// maxPEM is more than any chain needs.
const maxPEM = 1 << 20 // bytes

// A watched is one pair and what was last read of it.
type watched struct {
	Pair
	current atomic.Pointer[tls.Certificate] // never nil once opened

	// Of the last attempt to read; used under Files.mu only.
	seen    signature
	failure string
}

// A signature tells whether files have changed. Links are followed, so that a
// swapped link is a change.
type signature [2]struct {
	file fs.FileInfo
	err  string
}

func (p Pair) signature() (s signature) {
	for i, name := range []string{p.Cert, p.Key} {
		st, err := os.Stat(name)
		s[i].file = st
		if err != nil {
			s[i].err = err.Error()
		}
	}
	return s
}

func (s signature) equal(t signature) bool {
	for i := range s {
		a, b := s[i], t[i]
		if a.err != b.err {
			return false
		}
		if a.err == "" && !(os.SameFile(a.file, b.file) && a.file.ModTime().Equal(b.file.ModTime()) && a.file.Size() == b.file.Size()) {
			return false
		}
	}
	return true
}

// load reads both files and makes sure that they belong together.
func (p Pair) load() (*tls.Certificate, error) {
	certPEM, err := readPEM(p.Cert)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	keyPEM, err := readPEM(p.Key)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	if err := knownKey(keyPEM); err != nil {
		return nil, fmt.Errorf("private key %s %w", p.Key, err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM) // fills in Leaf
	if err != nil {
		return nil, fmt.Errorf("%s and %s are no pair: %w", p.Cert, p.Key, err)
	}
	return &cert, nil
}

func readPEM(name string) ([]byte, error) {
	// Without O_NONBLOCK a named pipe would be waited for.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; get one with \"certbot certonly --standalone -d mail.example.org\" "+
			"or from your own CA and name its files in [[tls.certificates]] of the configuration, "+
			"or try things out with \"postern demo\", which makes its own", err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file; name one in PEM form", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxPEM {
		return nil, fmt.Errorf("%s is larger than %d bytes, so it is not a PEM file", name, maxPEM)
	}
	return text, nil
}

// knownKey finds the two mistakes that x509 has only a riddle for.
func knownKey(text []byte) error {
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		switch {
		case block == nil:
			return errors.New("holds no key in PEM form (-----BEGIN PRIVATE KEY-----)")
		case block.Type == "ENCRYPTED PRIVATE KEY", block.Headers["DEK-Info"] != "":
			return errors.New("is protected by a passphrase, which nobody is there to type; " +
				"take it off with \"openssl pkey -in OLD -out NEW\" and protect NEW by its mode (0640)")
		case block.Type == "PRIVATE KEY" || block.Type == "EC PRIVATE KEY" || block.Type == "RSA PRIVATE KEY":
			return nil
		}
	}
}

// Long before this time certbot (30 days) and most others should have renewed.
const expiryWarning = 7 * 24 * time.Hour

// ageing says what is wrong with the validity of a certificate, or nothing.
func ageing(cert *tls.Certificate, now time.Time) string {
	leaf := cert.Leaf
	switch {
	case now.After(leaf.NotAfter):
		return "certificate has expired; mail clients refuse it: renew it (certbot renew)"
	case now.Before(leaf.NotBefore):
		return "certificate is not valid yet; is the clock right?"
	case leaf.NotAfter.Sub(now) < expiryWarning:
		return "certificate expires soon; is its renewal working (certbot renew --dry-run)?"
	}
	return ""
}
