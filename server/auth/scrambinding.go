package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/xdg-go/scram"
)

// errNoBinding is why a client's channel binding is refused.
var errNoBinding = errors.New("no such channel binding here")

// canBind reports whether there is a channel binding for -PLUS: with TLS 1.3
// always, before it only if the certificate is known.
func canBind(p *Peer) bool {
	if p.TLS == nil || p.TLS.Version >= tls.VersionTLS13 {
		return p.TLS != nil
	}
	_, err := bindingOf(p, string(scram.ChannelBindingTLSServerEndpoint))
	return err == nil
}

// bindingOf computes the channel binding that the client has named in its gs2
// header: it is the client that chooses (RFC 5802, section 6).
func bindingOf(p *Peer, name string) (scram.ChannelBinding, error) {
	switch kind := scram.ChannelBindingType(name); {
	// RFC 9266, section 3: in TLS 1.3. What it takes to be safe in TLS 1.2
	// (section 4.2, extended master secrets, no renegotiation) is not asked for.
	case kind == scram.ChannelBindingTLSExporter && p.TLS.Version >= tls.VersionTLS13:
		return scram.NewTLSExporterBinding(p.TLS)
	// RFC 5929, section 4.
	case kind == scram.ChannelBindingTLSServerEndpoint && p.Certificate != nil:
		shown := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{p.Certificate}}
		return scram.NewTLSServerEndpointBinding(shown)
	}
	return scram.ChannelBinding{}, errNoBinding
}
