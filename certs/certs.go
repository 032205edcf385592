// Package certs provides the server's TLS certificates and its TLS policy.
//
// A [Source] answers each handshake with a certificate. [Files] reads PEM
// pairs, chooses by SNI and by what the client can verify, and reads them
// again when they change; [SelfSigned] makes a pair for a first try.
package certs

import "crypto/tls"

// A Source chooses the certificate of a handshake. It is called by many
// handshakes at once. The method is that of autocert.Manager and
// certmagic.Config, so either can stand here.
type Source interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
}
