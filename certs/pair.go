package certs

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"

	"postern/internal/fileperm"
	"postern/internal/pemfile"
)

// newKey is the step for a key that TLS cannot use.
const newKey = "make one with \"openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out NEW\" and get a certificate for it"

// A loaded is a pair that has been read and can be used.
type loaded struct {
	cert     *tls.Certificate    // as it is sent, with Leaf
	chain    []*x509.Certificate // the same, parsed; the leaf first
	problems []Problem           // what was repaired
}

// load reads both files, checks that they belong together, and puts the chain in order.
func (p Pair) load() (*loaded, error) {
	certs, err := pemfile.ReadCertificates(p.Cert)
	if err != nil {
		return nil, p.certificateError(err)
	}
	keys, err := pemfile.ReadKeys(p.Key, newKey)
	if err != nil {
		return nil, p.keyError(err)
	}
	leaf, key, err := p.match(certs.List, keys.List)
	if err != nil {
		return nil, err
	}
	l := &loaded{cert: &tls.Certificate{PrivateKey: keys.List[key].Signer, Leaf: certs.List[leaf].Certificate}}
	for _, w := range append(certs.Warnings, keys.Warnings...) {
		l.problems = append(l.problems, Problem{Warning, w, ""})
	}
	if key > 0 {
		l.repaired(fmt.Sprintf("%s, line %d: the key of the certificate, after %d others", p.Key, keys.List[key].Line, key), "remove the others")
	}
	if certs.KeyLine > 0 && p.Cert != p.Key {
		l.repaired(fmt.Sprintf("%s, line %d: a private key in the file of certificates, which other users may read", p.Cert, certs.KeyLine), "remove it there")
	}
	l.order(p.Cert, certs.List, leaf)
	for _, c := range l.chain {
		l.cert.Certificate = append(l.cert.Certificate, c.Raw)
	}
	return l, nil
}

func (l *loaded) repaired(cause, step string) {
	l.problems = append(l.problems, Problem{Warning, cause, step})
}

// certificateError adds to the error of the first file what only both together show.
func (p Pair) certificateError(err error) error {
	if wrong, ok := errors.AsType[*pemfile.Wrong](err); ok && wrong.Found == pemfile.FoundKey {
		if c, err := pemfile.ReadCertificates(p.Key); err == nil && c.KeyLine == 0 {
			return fmt.Errorf("certificate and key are exchanged: %s contains the key and %s the certificate; exchange the two names in [[tls.certificates]]", p.Cert, p.Key)
		}
	}
	return fmt.Errorf("certificate: %w", howToGet(err))
}

// keyError is the same for the second file. A certificate is readable for every user, which
// would be the error of a key.
func (p Pair) keyError(err error) error {
	if _, ok := errors.AsType[fileperm.Refused](err); ok {
		if c, err := pemfile.ReadCertificates(p.Key); err == nil && c.KeyLine == 0 {
			return fmt.Errorf("private key: %s, line %d: a certificate instead of a private key; name the file with the private key", p.Key, c.List[0].Line)
		}
	}
	return fmt.Errorf("private key: %w", howToGet(err))
}

func howToGet(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w; get one with \"certbot certonly --standalone -d mail.example.org\" "+
		"or from another CA and name its files in [[tls.certificates]] of the configuration, "+
		"or run \"postern demo\", which makes one for a first try", err)
}

// match returns the certificate and the key that belong together.
func (p Pair) match(certs []pemfile.Certificate, keys []pemfile.Key) (leaf, key int, err error) {
	for _, authority := range []bool{false, true} { // the key of an authority may be in the file, too
		for k := range keys {
			public, ok := keys[k].Public().(interface{ Equal(crypto.PublicKey) bool })
			for c := range certs {
				if ok && certs[c].IsCA == authority && public.Equal(certs[c].PublicKey) {
					return c, k, nil
				}
			}
		}
	}
	kinds := ""
	if c, k := keyKind(certs[0].PublicKey), keyKind(keys[0].Public()); c != k {
		kinds = fmt.Sprintf(" (that has %s, this is %s)", c, k)
	}
	return 0, 0, fmt.Errorf("%s is the key of another certificate, not of that in %s%s; name the key that this certificate was requested with",
		p.Key, p.Cert, kinds)
}

// order puts the leaf first, then its issuer, and so on (RFC 8446, section 4.4.2; RFC 5246,
// section 7.4.2). Further certificates of authorities that issued one of these follow: a
// client may know a cross-signed authority only. Others are left out.
func (l *loaded) order(name string, file []pemfile.Certificate, leaf int) {
	rest := make([]pemfile.Certificate, 0, len(file))
	for i, c := range file {
		if first := duplicateOf(file[:i], c); first > 0 {
			l.repaired(fmt.Sprintf("%s, line %d: the same certificate as in line %d", name, c.Line, first), "remove it")
		} else if i != leaf {
			rest = append(rest, c)
		}
	}
	sent := []pemfile.Certificate{file[leaf]}
	take := func(of *x509.Certificate) bool {
		for i, c := range rest {
			if isIssuer(c.Certificate, of) {
				sent = append(sent, c)
				rest = append(rest[:i:i], rest[i+1:]...)
				return true
			}
		}
		return false
	}
	for take(sent[len(sent)-1].Certificate) {
	}
	for i := 0; i < len(sent); i++ {
		for take(sent[i].Certificate) {
		}
	}
	for _, c := range rest {
		l.repaired(fmt.Sprintf("%s, line %d: the certificate of %s does not belong to the chain and is not sent", name, c.Line, subject(c.Certificate)), "remove it")
	}
	l.noteOrder(name, sent)
	for _, c := range sent {
		l.chain = append(l.chain, c.Certificate)
	}
}

// noteOrder reports if the file has another order than is sent. That of certificates after
// the first self-signed one does not matter.
func (l *loaded) noteOrder(name string, sent []pemfile.Certificate) {
	for i := 1; i < len(sent); i++ {
		switch {
		case sent[i].Line < sent[0].Line:
			l.repaired(fmt.Sprintf("%s, line %d: the certificate of an authority comes before that of the server in line %d; it is sent after it", name, sent[i].Line, sent[0].Line),
				"write the certificate of the server first")
			return
		case isIssuer(sent[i].Certificate, sent[i-1].Certificate) && sent[i].Line < sent[i-1].Line:
			l.repaired(fmt.Sprintf("%s, line %d: the certificate of %s comes before that of %s in line %d, which it issued; it is sent after it",
				name, sent[i].Line, subject(sent[i].Certificate), subject(sent[i-1].Certificate), sent[i-1].Line), "write each certificate before that of its issuer")
			return
		}
	}
}

// duplicateOf returns the line of an equal certificate, or 0.
func duplicateOf(certs []pemfile.Certificate, c pemfile.Certificate) int {
	for _, other := range certs {
		if bytes.Equal(other.Raw, c.Raw) {
			return other.Line
		}
	}
	return 0
}
