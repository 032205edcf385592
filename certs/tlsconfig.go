package certs

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
)

// TLSConfig returns the TLS policy of all listeners. Cipher suites, key
// exchanges (hybrid post-quantum ones included) and the rotation of the session
// ticket keys are left to crypto/tls on purpose.
//
// No ALPN protocol is set, so the server accepts a client that offers any, as
// it accepts one that offers none. ALPACA (cross-protocol attacks on TLS) needs
// a server that continues after lines of HTTP; the SMTP server ends such a
// connection.
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
	// none at all if tickets are disabled there. A later Set could then not
	// enable them: TLS 1.3 would send none, and handshakes of TLS 1.2 would fail
	// for want of a key. The current configuration alone decides.
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
// session no certificate is sent; ShowCertificate then gets the one that a whole
// handshake would send now. It is called during the handshake, by its goroutine.
type Viewer interface{ ShowCertificate(*x509.Certificate) }

// Config returns the configuration for the listeners, always the same value.
func (s *Shared) Config() *tls.Config { return s.outer }

// Set replaces policy and source for all handshakes that begin after it.
// Connections that have been established are not affected.
func (s *Shared) Set(cfg Config, src Source) { s.current.Store(TLSConfig(cfg, src)) }
