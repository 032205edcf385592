package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/xdg-go/scram"
)

// errNoBinding is the cause if the channel binding of a client is refused.
var errNoBinding = errors.New("this channel binding is not available on the connection")

// canBind reports whether SCRAM-SHA-256-PLUS can be offered: whether the connection has
// the channel binding that clients choose with its version of TLS. With TLS 1.3 that is
// tls-exporter (RFC 9266), with earlier versions tls-unique, the default of RFC 5802,
// section 6.1. A client that is offered -PLUS and supports only a binding that is refused
// cannot log in.
func canBind(p *Peer) bool {
	if p.TLS == nil || p.TLS.Version >= tls.VersionTLS13 {
		return p.TLS != nil
	}
	return tlsUnique(p.TLS) != nil
}

// bindingOf returns the channel binding that the client names in its gs2 header: the client
// chooses it (RFC 5802, section 6).
func bindingOf(p *Peer, name string) (scram.ChannelBinding, error) {
	switch kind := scram.ChannelBindingType(name); {
	// RFC 9266, section 3: with TLS 1.3. With TLS 1.2 it would require the same check as
	// tlsUnique, and clients use tls-unique.
	case kind == scram.ChannelBindingTLSExporter && p.TLS.Version >= tls.VersionTLS13:
		return scram.NewTLSExporterBinding(p.TLS)
	// RFC 5929, section 3.
	case kind == scram.ChannelBindingTLSUnique:
		if unique := tlsUnique(p.TLS); unique != nil {
			return scram.NewTLSUniqueBinding(unique), nil
		}
	// RFC 5929, section 4.
	case kind == scram.ChannelBindingTLSServerEndpoint && p.Certificate != nil:
		shown := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{p.Certificate}}
		return scram.NewTLSServerEndpointBinding(shown)
	}
	return scram.ChannelBinding{}, errNoBinding
}

// tlsUnique returns the channel binding tls-unique (RFC 5929, section 3), or nil if
// the connection has none that is safe: with TLS 1.3, for which it is not defined (RFC
// 8446, appendix C.5), and with TLS 1.2 without the extended master secret, where an
// attacker in the middle of two connections can give both the same binding (the triple
// handshake attack, RFC 7627, section 1).
//
// crypto/tls does not report whether the extended master secret is used, but it exports
// keying material only with it, unless GODEBUG=tlsunsafeekm=1 is set, and without it
// TLSUnique is nil on a resumed connection. Before the end of the handshake TLSUnique may
// be zeros.
func tlsUnique(s *tls.ConnectionState) []byte {
	if !s.HandshakeComplete || s.Version != tls.VersionTLS12 || len(s.TLSUnique) == 0 {
		return nil
	}
	if _, err := s.ExportKeyingMaterial(extendedMasterSecretProbe, nil, 1); err != nil {
		return nil
	}
	return s.TLSUnique
}

// extendedMasterSecretProbe is a label for keying material that is not used. RFC 5705,
// section 4 reserves labels that begin with EXPERIMENTAL for private use.
const extendedMasterSecretProbe = "EXPERIMENTAL postern extended master secret"
