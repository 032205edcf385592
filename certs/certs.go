// Package certs provides the server's TLS certificates and its TLS policy.
//
// A [Source] answers each handshake with a certificate. [Files] reads PEM
// pairs, chooses by SNI and by what the client can verify, and reads them
// again when they change; [SelfSigned] makes a pair for a first try.
// [TLSConfig] holds the policy: TLS 1.2 or 1.3 (RFC 8996), with the cipher
// suites and key exchanges that crypto/tls chooses and keeps up to date
// (RFC 9325). [Shared] lets a reload change all of that under way.
//
// OCSP stapling is left out: the large authorities have ended OCSP in favour
// of short-lived certificates. To add another source of certificates, write a
// type with the method of Source in a file of its own; nothing else knows
// where a certificate comes from.
package certs

import "crypto/tls"

// A Source chooses the certificate of a handshake. It is called by many
// handshakes at once. The method is that of autocert.Manager and
// certmagic.Config, so either can stand here.
type Source interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
}
