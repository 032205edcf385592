package certs

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
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
	f.Warn()
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
			if cert := w.current.Load().cert; h.SupportsCertificate(cert) == nil {
				return cert, nil
			}
		}
	}
	// crypto/tls sends the alert that fits.
	return f.pairs[0].current.Load().cert, nil
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
	old := w.current.Load().cert
	if err := f.read(w); err != nil {
		if w.failure != err.Error() {
			f.events.ReloadFailed(w.Pair, old.Leaf.NotAfter, err)
		}
		w.failure = err.Error()
		return err
	}
	w.failure = ""
	if !old.Leaf.Equal(w.current.Load().cert.Leaf) {
		f.events.Reloaded(w.info())
		f.warn(w)
	}
	return nil
}

// read loads a pair and uses it from now on.
func (f *Files) read(w *watched) error {
	w.seen = w.signature() // before reading: a change in between is detected later
	l, err := w.load()
	if err != nil {
		return f.explain(err)
	}
	w.current.Store(l)
	return nil
}

// Warn reports each Problem that is more than a Note.
func (f *Files) Warn() {
	for _, w := range f.pairs {
		f.warn(w)
	}
}

func (f *Files) warn(w *watched) {
	i := w.info()
	for _, p := range i.Problems {
		if p.Level > Note {
			f.events.Invalid(i, p)
		}
	}
}

// NotAfter returns when the first of the certificates in use expires.
func (f *Files) NotAfter() time.Time {
	first := f.pairs[0].current.Load().cert.Leaf.NotAfter
	for _, w := range f.pairs[1:] {
		if t := w.current.Load().cert.Leaf.NotAfter; t.Before(first) {
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
	Problems  []Problem // the most serious one first
}

// Infos returns all certificates in use, in the order of the configuration.
func (f *Files) Infos() []Info {
	infos := make([]Info, len(f.pairs))
	for i, w := range f.pairs {
		infos[i] = w.info()
	}
	return infos
}

func (w *watched) info() Info {
	l := w.current.Load()
	leaf, now := l.cert.Leaf, time.Now()
	system, err := x509.SystemCertPool()
	if err != nil || system.Equal(x509.NewCertPool()) {
		system = nil
	}
	i := Info{
		Pair:      w.Pair,
		Names:     names(leaf),
		Algorithm: leaf.PublicKeyAlgorithm.String(),
		NotAfter:  leaf.NotAfter,
		Problems:  slices.Concat(l.problems, leafProblems(leaf, now), chainProblems(w.Cert, l.chain, system, now)),
	}
	slices.SortStableFunc(i.Problems, func(a, b Problem) int { return cmp.Compare(b.Level, a.Level) })
	return i
}

// A watched is one pair and the certificate that was read last.
type watched struct {
	Pair
	current atomic.Pointer[loaded] // not nil after OpenFiles

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
