// Package certs provides the server's TLS certificates and its TLS policy.
//
// A [Source] returns the certificate for each handshake. [Files] reads PEM pairs, selects
// one by SNI and by what the client can verify, and reads them again when they change
// (watch.go). pair.go reads a pair and puts its chain in order; problem.go and chain.go find
// what clients will not accept of it. [SelfSigned] makes a pair for a first try. [TLSConfig] is the policy: TLS 1.2
// or 1.3 (RFC 8996), with the cipher suites and key exchanges that crypto/tls selects and
// keeps up to date (RFC 9325). [Shared] can replace policy and source while connections
// are being served.
//
// OCSP stapling is left out: the large authorities have replaced OCSP by short-lived
// certificates. To add another source of certificates, such as ACME, write a type with the
// method of Source in a new file, and make it in cmd/postern/internal/app; nothing else
// depends on where a certificate comes from.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"postern/internal/access"
	"postern/internal/fileperm"
)

// A Source selects the certificate of a handshake. It is called by many handshakes at the
// same time. autocert.Manager and certmagic.Config implement it, too.
type Source interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Config is the section [tls].
type Config struct {
	// Certificates are the pairs to select from. The first one is for clients that send no
	// server name, or one that no certificate contains.
	Certificates []Pair `toml:"certificates"`

	// MinVersion is the oldest TLS version that is accepted: "1.2" or "1.3".
	MinVersion Version `toml:"min_version"`

	// SessionTickets allows clients to resume a session without a full handshake (RFC 5077,
	// and RFC 8446, section 2.2). crypto/tls sends the tickets of
	// TLS 1.3 before it has read the client's Finished message (RFC 8446,
	// section 4.6.1, allows that), and Microsoft's sending servers closed the
	// connection on it (https://go.dev/issue/70232).
	SessionTickets bool `toml:"session_tickets"`
}

// A Pair names the two PEM files of one certificate: [[tls.certificates]].
type Pair struct {
	Cert string `toml:"cert"` // the certificate and its chain
	Key  string `toml:"key"`  // its private key, not encrypted
}

// Defaults returns the configuration for an empty section. The file names are those of
// certbot.
func Defaults() Config {
	return Config{
		Certificates: []Pair{{
			Cert: "/etc/postern/tls/fullchain.pem",
			Key:  "/etc/postern/tls/privkey.pem",
		}},
		MinVersion:     tls.VersionTLS12,
		SessionTickets: true,
	}
}

// Validate calls bad for each invalid key of c, with the reason.
func (c *Config) Validate(bad func(key, why string)) {
	if len(c.Certificates) == 0 {
		bad("certificates", "is empty, but logging in requires TLS; "+
			"name at least one pair in [[tls.certificates]], or leave it out for the default")
	}
	seen := make(map[Pair]bool)
	for i, p := range c.Certificates {
		at := fmt.Sprintf("certificates[%d]", i)
		if p.Cert == "" {
			bad(at+".cert", "is missing; name the PEM file with the certificate and its chain")
		}
		switch {
		case p.Key == "":
			bad(at+".key", "is missing; name the PEM file with the private key")
		case strings.Contains(p.Key, "-----BEGIN"):
			bad(at+".key", "contains the key itself; write it to a file that only the server's user can read, and name that file")
		}
		if seen[p] {
			bad(at, "names the same pair as an earlier one; remove one of them")
		}
		seen[p] = true
	}
}

// Access adds the files of the section to list. key makes the full name of a key.
func (c *Config) Access(key func(string) string, list *access.List) {
	for i, p := range c.Certificates {
		at := fmt.Sprintf("certificates[%d]", i)
		list.Read(key(at+".cert"), p.Cert)
		list.ReadAs(fileperm.Secret, key(at+".key"), p.Key)
	}
}

// A Version is a TLS version, as a constant of crypto/tls.
type Version uint16

// UnmarshalText reads "1.2" or "1.3".
func (v *Version) UnmarshalText(text []byte) error {
	switch string(text) {
	case "1.2":
		*v = tls.VersionTLS12
	case "1.3":
		*v = tls.VersionTLS13
	default:
		// RFC 8996 deprecates TLS 1.0 and 1.1.
		return fmt.Errorf(`%q is not an accepted TLS version; write "1.2" or "1.3"`, text)
	}
	return nil
}

func (v Version) String() string {
	if v == tls.VersionTLS13 {
		return "1.3"
	}
	return "1.2"
}

// TLSConfig returns the TLS policy of all listeners. Cipher suites, key
// exchanges (hybrid post-quantum ones included) and the rotation of the session
// ticket keys are left to crypto/tls on purpose.
//
// No ALPN protocol is set, so clients are accepted whatever they offer. ALPACA
// (cross-protocol attacks on TLS) needs a server that continues after lines of HTTP; the
// SMTP server closes such a connection.
func TLSConfig(cfg Config, src Source) *tls.Config {
	return &tls.Config{
		MinVersion:             uint16(cfg.MinVersion),
		SessionTicketsDisabled: !cfg.SessionTickets,
		GetCertificate:         src.GetCertificate,
	}
}

// Shared is one TLS configuration for the life of the process. Set replaces its
// policy and source while connections are being served. A new tls.Config would
// have new ticket keys, and no client could resume its session after a reload.
// All methods may be called concurrently.
type Shared struct {
	outer   *tls.Config
	current atomic.Pointer[tls.Config]
}

// NewShared returns a Shared with the policy cfg and the certificates of src.
func NewShared(cfg Config, src Source) *Shared {
	s := &Shared{outer: TLSConfig(cfg, src)}
	// crypto/tls takes the ticket keys from the outer configuration, and takes
	// none at all if tickets are disabled there. A later Set could then not enable
	// them: TLS 1.3 would send none, and handshakes of TLS 1.2 would fail without a
	// key. So only the current configuration decides.
	s.outer.SessionTicketsDisabled = false
	s.Set(cfg, src)
	s.outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		current := s.current.Load()
		if viewer, ok := hello.Conn.(Viewer); ok {
			if cert, err := current.GetCertificate(hello); err == nil {
				viewer.ShowCertificate(cert.Leaf)
			}
		}
		return current, nil
	}
	return s
}

// A Viewer is a net.Conn that needs the certificate which the server sends: the
// channel binding tls-server-end-point is computed from it (RFC 5929, section
// 4), and crypto/tls does not return it on the server's side. In a resumed
// session no certificate is sent; ShowCertificate then gets the one that a full
// handshake would send now. It is called during the handshake, by its goroutine.
type Viewer interface{ ShowCertificate(*x509.Certificate) }

// Config returns the configuration for the listeners, always the same value.
func (s *Shared) Config() *tls.Config { return s.outer }

// Set replaces policy and source for all handshakes that begin after it.
// Connections that have been established are not affected.
func (s *Shared) Set(cfg Config, src Source) { s.current.Store(TLSConfig(cfg, src)) }

// Events receives everything that the log and the metrics need to know of the
// certificates. Its methods are called by many goroutines at once and must not block.
// [NewLog] makes one that writes the log; docs/log.md lists the events.
type Events interface {
	Reloaded(i Info)

	// ReloadFailed is called once for each reason. The old certificate of the pair, which
	// is valid until notAfter, stays in use.
	ReloadFailed(p Pair, notAfter time.Time, err error)

	// Invalid reports a Problem of a certificate in use, which is more than a Note. It is
	// repeated every day.
	Invalid(i Info, p Problem)

	// WatchFailed reports that a change of a file may be noticed only a minute later.
	// started is false if the system gives no notifications at all.
	WatchFailed(started bool, err error)
}

// An eventLog writes the events to a log, one line each.
type eventLog struct{ *slog.Logger }

// NewLog returns Events that are written to l.
func NewLog(l *slog.Logger) Events { return eventLog{l} }

func (l eventLog) Reloaded(i Info) {
	l.Info("certificate reloaded", "cert", i.Cert, "names", i.Names, "not_after", i.NotAfter)
}

func (l eventLog) ReloadFailed(p Pair, notAfter time.Time, err error) {
	l.Error("certificate cannot be reloaded; the old one stays", "cert", p.Cert, "key", p.Key, "not_after", notAfter, "err", err)
}

func (l eventLog) Invalid(i Info, p Problem) {
	attrs := []any{"cert", i.Cert, "names", i.Names, "not_after", i.NotAfter, "reason", p.Cause}
	if p.Step != "" {
		attrs = append(attrs, "hint", p.Step)
	}
	l.Warn("certificate problem", attrs...)
}

func (l eventLog) WatchFailed(started bool, err error) {
	if started {
		l.Warn("notification of changed certificates failed; looking every minute still", "err", err)
		return
	}
	l.Warn("no notification of changed certificates; looking every minute", "err", err)
}
