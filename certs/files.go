package certs

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"postern/internal/fileperm"
)

// Files is a Source of PEM files. All its methods may be called by many
// goroutines at once.
//
// Each pair is replaced atomically: a handshake uses the old one or the new one. If a new
// pair cannot be used (incomplete, the key of another certificate, not readable any more),
// that is reported, and the old one stays in use.
type Files struct {
	pairs   []*watched
	events  Events
	explain func(error) error

	mu sync.Mutex // pairs are read one at a time
}

// OpenFiles reads all pairs of cfg, which must be valid. It fails if one of
// them cannot be used.
//
// explain, if it is not nil, adds the next step to an error of opening a file, which
// contains an *fs.PathError.
func OpenFiles(cfg Config, events Events, explain func(error) error) (*Files, error) {
	if explain == nil {
		explain = func(err error) error { return err }
	}
	f := &Files{events: events, explain: explain}
	var errs []error
	for _, p := range cfg.Certificates {
		w := &watched{Pair: p}
		f.pairs = append(f.pairs, w)
		errs = append(errs, f.read(w))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	f.WarnOfAge()
	return f, nil
}

// GetCertificate implements Source. It returns the first pair for the name that the client
// sends that the client can verify; if there is none, the first pair that it can verify,
// since a client that sends no name, or an old one, may accept that.
func (f *Files) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	anyName := *hello
	anyName.ServerName = ""
	for _, h := range []*tls.ClientHelloInfo{hello, &anyName} {
		for _, w := range f.pairs {
			if cert := w.current.Load(); h.SupportsCertificate(cert) == nil {
				return cert, nil
			}
		}
	}
	// crypto/tls sends the alert that fits.
	return f.pairs[0].current.Load(), nil
}

// Reload reads all pairs again. It returns the errors of those that could not be replaced;
// their old ones stay in use.
func (f *Files) Reload(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, w := range f.pairs {
		errs = append(errs, f.replace(w))
	}
	return errors.Join(errs...)
}

// reloadChanged reads the pairs again whose files have changed, and those that failed, since
// the signature does not contain permissions.
func (f *Files) reloadChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.pairs {
		if w.failure != "" || !w.signature().equal(w.seen) {
			_ = f.replace(w) // which reports the error
		}
	}
}

// replace reads a pair and reports the result, the same failure only once.
func (f *Files) replace(w *watched) error {
	old := w.current.Load()
	if err := f.read(w); err != nil {
		if w.failure != err.Error() {
			f.events.ReloadFailed(w.Pair, old.Leaf.NotAfter, err)
		}
		w.failure = err.Error()
		return err
	}
	w.failure = ""
	if !old.Leaf.Equal(w.current.Load().Leaf) {
		f.events.Reloaded(w.info())
		f.warn(w)
	}
	return nil
}

// read loads a pair and uses it from now on.
func (f *Files) read(w *watched) error {
	w.seen = w.signature() // before reading: a change in between is detected later
	cert, err := w.load()
	if err != nil {
		return f.explain(err)
	}
	w.current.Store(cert)
	return nil
}

// WarnOfAge reports each certificate that has expired or soon will.
func (f *Files) WarnOfAge() {
	for _, w := range f.pairs {
		f.warn(w)
	}
}

func (f *Files) warn(w *watched) {
	if i := w.info(); i.Warning != "" {
		f.events.Invalid(i)
	}
}

// NotAfter returns when the first of the certificates in use expires.
func (f *Files) NotAfter() time.Time {
	first := f.pairs[0].current.Load().Leaf.NotAfter
	for _, w := range f.pairs[1:] {
		if t := w.current.Load().Leaf.NotAfter; t.Before(first) {
			first = t
		}
	}
	return first
}

// An Info describes one certificate in use.
type Info struct {
	Pair
	Names     []string // DNS names and IP addresses
	Algorithm string   // of its key: "ECDSA", "RSA", "Ed25519"
	NotAfter  time.Time
	Warning   string // why it is not valid, or soon will not be; or empty
}

// Infos returns all certificates in use, in the order of the configuration.
func (f *Files) Infos() []Info {
	infos := make([]Info, len(f.pairs))
	for i, w := range f.pairs {
		infos[i] = w.info()
	}
	return infos
}

// expiryWarning is much shorter than the time at which certbot (30 days) and most other
// clients renew a certificate.
const expiryWarning = 7 * 24 * time.Hour

func (w *watched) info() Info {
	leaf := w.current.Load().Leaf
	i := Info{
		Pair:      w.Pair,
		Names:     append([]string(nil), leaf.DNSNames...),
		Algorithm: leaf.PublicKeyAlgorithm.String(),
		NotAfter:  leaf.NotAfter,
	}
	for _, ip := range leaf.IPAddresses {
		i.Names = append(i.Names, ip.String())
	}
	switch now := time.Now(); {
	case now.After(leaf.NotAfter):
		i.Warning = "certificate has expired; mail clients refuse it: renew it (certbot renew)"
	case now.Before(leaf.NotBefore):
		i.Warning = "certificate is not valid yet; is the clock right?"
	case leaf.NotAfter.Sub(now) < expiryWarning:
		i.Warning = "certificate expires soon; is its renewal working (certbot renew --dry-run)?"
	}
	return i
}

// maxPEM is the largest file that is read, in bytes.
const maxPEM = 1 << 20

// A watched is one pair and the certificate that was read last.
type watched struct {
	Pair
	current atomic.Pointer[tls.Certificate] // not nil after OpenFiles

	// Of the last attempt to read; protected by Files.mu.
	seen    signature
	failure string
}

// A signature changes if one of the files changes. Links are followed, so a link to another
// file is a change.
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

// load reads both files and checks that they belong together.
func (p Pair) load() (*tls.Certificate, error) {
	certPEM, err := readPEM(p.Cert, fileperm.Public)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	keyPEM, err := readPEM(p.Key, fileperm.Secret)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	if err := checkKey(keyPEM); err != nil {
		return nil, fmt.Errorf("private key %s %w", p.Key, err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM) // fills in Leaf
	if err != nil {
		return nil, fmt.Errorf("%s and %s are not a certificate and its key: %w", p.Cert, p.Key, err)
	}
	return &cert, nil
}

func readPEM(name string, k fileperm.Kind) ([]byte, error) {
	text, err := fileperm.ReadFile(name, k, "one in PEM form", maxPEM)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; get one with \"certbot certonly --standalone -d mail.example.org\" "+
			"or from another CA and name its files in [[tls.certificates]] of the configuration, "+
			"or run \"postern demo\", which makes one for a first try", err)
	}
	return text, err
}

// checkKey detects two mistakes for which the error of x509 is not clear.
func checkKey(text []byte) error {
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		switch {
		case block == nil:
			return errors.New("contains no key in PEM form (-----BEGIN PRIVATE KEY-----)")
		case block.Type == "ENCRYPTED PRIVATE KEY", block.Headers["DEK-Info"] != "":
			return errors.New("is protected by a passphrase, which the server cannot ask for; " +
				"remove it with \"openssl pkey -in OLD -out NEW\" and protect NEW by its mode (0640)")
		case block.Type == "PRIVATE KEY" || block.Type == "EC PRIVATE KEY" || block.Type == "RSA PRIVATE KEY":
			return nil
		}
	}
}
