package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/xdg-go/scram"
)

// errNoBinding is why a client's channel binding is refused.
var errNoBinding = errors.New("this channel binding is not available on the connection")

// canBind reports whether -PLUS is offered: whether the connection has the channel
// binding that clients choose on its version of TLS. On TLS 1.3 that is tls-exporter
// (RFC 9266), before it tls-unique, the default of RFC 5802, section 6.1. A client
// that is offered -PLUS and has only a binding that is refused cannot log in.
func canBind(p *Peer) bool {
	if p.TLS == nil || p.TLS.Version >= tls.VersionTLS13 {
		return p.TLS != nil
	}
	return tlsUnique(p.TLS) != nil
}

// bindingOf computes the channel binding that the client has named in its gs2
// header: it is the client that chooses (RFC 5802, section 6).
func bindingOf(p *Peer, name string) (scram.ChannelBinding, error) {
	switch kind := scram.ChannelBindingType(name); {
	// RFC 9266, section 3: in TLS 1.3. In TLS 1.2 it would need what tlsUnique
	// checks; clients use tls-unique there.
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
// the connection has none that is safe: on TLS 1.3, where it is not defined (RFC
// 8446, appendix C.5), and on TLS 1.2 without the extended master secret, where an
// attacker in the middle of two connections can make both have the same (the
// triple handshake attack, RFC 7627, section 1).
//
// crypto/tls does not report the extended master secret, but exports keying
// material only with it, unless GODEBUG=tlsunsafeekm=1 is set; and without it,
// TLSUnique is nil on a resumed connection. Before the end of the handshake
// TLSUnique may be zeros.
func tlsUnique(s *tls.ConnectionState) []byte {
	if !s.HandshakeComplete || s.Version != tls.VersionTLS12 || len(s.TLSUnique) == 0 {
		return nil
	}
	if _, err := s.ExportKeyingMaterial(extendedMasterSecretProbe, nil, 1); err != nil {
		return nil
	}
	return s.TLSUnique
}

// extendedMasterSecretProbe is a label for keying material that is not used. RFC
// 5705, section 4 leaves labels that begin with EXPERIMENTAL to private use.
const extendedMasterSecretProbe = "EXPERIMENTAL postern extended master secret"
