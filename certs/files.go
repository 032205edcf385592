package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"sync"
	"time"
)

// Files is a Source of PEM files. All its methods may be called by many
// goroutines at once.
//
// Each pair is replaced atomically: a handshake uses the old one or the new one. A new
// pair that is broken (half-written, the key of another certificate, not readable any
// more) is logged, and the old one stays.
type Files struct {
	pairs   []*watched
	events  Events
	explain func(error) error

	mu sync.Mutex // one reading at a time
}

// OpenFiles reads all pairs of cfg, which must be valid. It fails if one of
// them cannot be used.
//
// explain, if it is not nil, adds to an error of opening a file (an *fs.PathError is
// inside) what to do about it.
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

// GetCertificate returns the first pair that is for the name that the client
// asks for and that the client can verify; where there is none, the first one
// that it can verify, since a client that gives no name, or one that only the
// old configuration had, may well accept it.
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

// Reload reads all pairs again. It returns what is wrong with those that could
// not be exchanged; their old ones stay.
func (f *Files) Reload(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, w := range f.pairs {
		errs = append(errs, f.exchange(w))
	}
	return errors.Join(errs...)
}

// reloadChanged reads the pairs again whose files have changed, and those that
// failed: a change of permissions does not show in the files.
func (f *Files) reloadChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.pairs {
		if w.failure != "" || !w.signature().equal(w.seen) {
			_ = f.exchange(w) // which logs the error
		}
	}
}

// exchange reads a pair and logs the result, the same failure once only.
func (f *Files) exchange(w *watched) error {
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

// read loads a pair and puts it in force.
func (f *Files) read(w *watched) error {
	w.seen = w.signature() // before reading: what changes meanwhile is read again
	cert, err := w.load()
	if err != nil {
		return f.explain(err)
	}
	w.current.Store(cert)
	if st, err := os.Stat(w.Key); err == nil && st.Mode().Perm()&0o004 != 0 {
		f.events.KeyWorldReadable(w.Key, st.Mode().Perm())
	}
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

// NotAfter is when the first of the certificates in use expires.
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
	Warning   string // what is wrong with its validity, or empty
}

// Infos describes all certificates in use, in the order of the configuration.
func (f *Files) Infos() []Info {
	infos := make([]Info, len(f.pairs))
	for i, w := range f.pairs {
		infos[i] = w.info()
	}
	return infos
}

func (w *watched) info() Info {
	cert := w.current.Load()
	names := append([]string(nil), cert.Leaf.DNSNames...)
	for _, ip := range cert.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return Info{
		Pair:      w.Pair,
		Names:     names,
		Algorithm: cert.Leaf.PublicKeyAlgorithm.String(),
		NotAfter:  cert.Leaf.NotAfter,
		Warning:   ageing(cert, time.Now()),
	}
}
