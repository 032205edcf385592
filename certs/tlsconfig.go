package certs

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
)

// TLSConfig is the TLS policy of all listeners. What it leaves out is left to
// crypto/tls on purpose: its cipher suites, its key exchanges (hybrid
// post-quantum ones included), and session tickets whose keys it rotates.
//
// No ALPN protocol is set, so a client that names any is served, as one that
// names none. ALPACA (cross-protocol attacks on TLS) needs a server that goes
// on after lines of HTTP; the SMTP server ends such a connection.
func TLSConfig(cfg Config, src Source) *tls.Config {
	return &tls.Config{
		MinVersion:     uint16(cfg.MinVersion),
		GetCertificate: src.GetCertificate,
	}
}

// Shared is one TLS configuration for the life of the process, whose policy
// and source can be exchanged while connections are being served. A new
// tls.Config would forget the keys of the session tickets, and all clients
// would have to go through whole handshakes again.
type Shared struct {
	outer   *tls.Config
	current atomic.Pointer[tls.Config]
}

// NewShared starts with cfg and src.
func NewShared(cfg Config, src Source) *Shared {
	s := &Shared{outer: TLSConfig(cfg, src)}
	s.Set(cfg, src)
	// The ticket keys stay those of the outer configuration, see
	// tls.Config.GetConfigForClient.
	s.outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		current := s.current.Load()
		show(current, hello)
		return current, nil
	}
	return s
}

// A Viewer is a connection that wants to know which certificate its client is
// shown: the channel binding tls-server-end-point is made of it (RFC 5929), and
// crypto/tls does not tell. Of a resumed session it is the one that a whole
// handshake would show now.
type Viewer interface{ ShowCertificate(*x509.Certificate) }

func show(cfg *tls.Config, hello *tls.ClientHelloInfo) {
	viewer, ok := hello.Conn.(Viewer)
	if !ok {
		return
	}
	if cert, err := cfg.GetCertificate(hello); err == nil {
		viewer.ShowCertificate(cert.Leaf)
	}
}

// Config is for the listeners. It is always the same value.
func (s *Shared) Config() *tls.Config { return s.outer }

// Set exchanges policy and source for the handshakes from now on.
func (s *Shared) Set(cfg Config, src Source) { s.current.Store(TLSConfig(cfg, src)) }
