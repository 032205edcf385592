package neterr

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// explainHandshake returns nil for an unknown cause.
func (s Server) explainHandshake(err error) *Error {
	if e := s.explainCertificate(err); e != nil {
		return e
	}
	if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return s.explainRecord(record)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return s.explainAlert(op.Err)
	}
	switch {
	case strings.Contains(err.Error(), "unsupported protocol version"):
		return s.oldVersion()
	case isClosed(err):
		return &Error{
			Cause: fmt.Sprintf("the server at %s closes the connection when TLS begins (EOF), as one does that speaks no TLS on this port", s.Address),
			Step:  s.withoutTLS(),
		}
	case isTimeout(err):
		return &Error{
			Cause: fmt.Sprintf("%s accepts the connection, and does not answer the TLS handshake in time, as one does that speaks no TLS on this port", s.Address),
			Step:  s.withoutTLS(),
		}
	}
	return nil
}

// explainRecord explains an answer that is not TLS.
func (s Server) explainRecord(e tls.RecordHeaderError) *Error {
	cause := fmt.Sprintf("the server at %s speaks no TLS on this port", s.Address)
	if protocol := Protocol(e.RecordHeader[:]); protocol != "" && protocol != protocolTLS {
		cause = fmt.Sprintf("the server at %s speaks %s without TLS on this port", s.Address, protocol)
	}
	return &Error{Cause: cause, Step: s.withoutTLS()}
}

func (s Server) withoutTLS() string {
	if s.WithoutTLS != "" {
		return s.WithoutTLS
	}
	return fmt.Sprintf("correct the port in %s", s.AddressKey)
}

// The alerts of RFC 8446, section 6.2, with a cause that the administrator can remove. Package
// tls does not export the type of an alert that it has received, only its text.
const (
	alertHandshakeFailure    tls.AlertError = 40
	alertBadCertificate      tls.AlertError = 42
	alertProtocolVersion     tls.AlertError = 70
	alertInternalError       tls.AlertError = 80
	alertUnrecognizedName    tls.AlertError = 112
	alertCertificateRequired tls.AlertError = 116
)

func (s Server) explainAlert(alert error) *Error {
	switch alert.Error() {
	case alertProtocolVersion.Error():
		return s.oldVersion()
	case alertCertificateRequired.Error(), alertBadCertificate.Error():
		return &Error{
			Cause: fmt.Sprintf("the server at %s demands a client certificate, and postern has none", s.Address),
			Step:  "let the server accept clients without one",
		}
	case alertHandshakeFailure.Error(), alertInternalError.Error(), alertUnrecognizedName.Error():
		return &Error{
			Cause: fmt.Sprintf("the server at %s refuses TLS (%s)", s.Address, alert),
			Step:  "give it a certificate and a cipher suite of TLS 1.2 or 1.3; its log has the reason",
		}
	}
	return nil
}

func (s Server) oldVersion() *Error {
	return &Error{
		Cause: fmt.Sprintf("the server at %s has only versions of TLS older than 1.2, which RFC 8996 forbids", s.Address),
		Step:  "enable TLS 1.2 or 1.3 at the server",
	}
}

// explainCertificate returns nil if err is not about the certificate of the server.
func (s Server) explainCertificate(err error) *Error {
	var chain []*x509.Certificate // as sent by the server
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		chain = e.UnverifiedCertificates
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return s.explainHost(e)
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return s.explainInvalid(e, chain)
	}
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return s.explainAuthority(e, chain)
	}
	if len(chain) > 0 {
		return &Error{
			Cause: fmt.Sprintf("the certificate of %s cannot be verified: %s", s.Host, clean(err.Error())),
			Step:  "replace it at the server",
		}
	}
	return nil
}

func (s Server) explainHost(e x509.HostnameError) *Error {
	names := hosts(e.Certificate)
	if len(names) > 0 {
		return &Error{
			Cause: fmt.Sprintf("the certificate is for %s, and not for %s", few(names), e.Host),
			Step:  fmt.Sprintf("write a name of the certificate in %s, or give the server a certificate for %[2]s", s.AddressKey, e.Host),
		}
	}
	cause := "the certificate names no host"
	if cn := e.Certificate.Subject.CommonName; cn != "" {
		cause = fmt.Sprintf("the certificate has only the common name %q and no subjectAltName; common names are no longer used (RFC 9525)", clean(cn))
	}
	kind := "DNS"
	if strings.Trim(e.Host, "0123456789.") == "" || strings.Contains(e.Host, ":") {
		kind = "IP"
	}
	return &Error{Cause: cause, Step: fmt.Sprintf("give the server a certificate with subjectAltName=%s:%s", kind, e.Host)}
}

// hosts returns the names and addresses that a certificate covers.
func hosts(c *x509.Certificate) []string {
	var all []string
	for _, name := range c.DNSNames {
		all = append(all, clean(name))
	}
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	return all
}

// maxNames is how many names a text has.
const maxNames = 4

func few(names []string) string {
	if len(names) > maxNames {
		return fmt.Sprintf("%s and %d other names", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
	}
	return strings.Join(names, ", ")
}

func (s Server) explainInvalid(e x509.CertificateInvalidError, chain []*x509.Certificate) *Error {
	which := "the certificate of " + s.Host
	if len(chain) > 0 && !e.Cert.Equal(chain[0]) {
		which = fmt.Sprintf("the certificate of the authority %q", name(e.Cert))
	}
	now := time.Now()
	switch {
	case e.Reason == x509.Expired && now.After(e.Cert.NotAfter):
		return &Error{
			Cause: fmt.Sprintf("%s expired on %s", which, e.Cert.NotAfter.Format(time.DateOnly)),
			Step:  "renew it at the server",
		}
	case e.Reason == x509.Expired:
		return &Error{
			Cause: fmt.Sprintf("%s is valid from %s on, and the clock of this machine shows %s", which,
				e.Cert.NotBefore.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime)),
			Step: "set the clock",
		}
	case e.Reason == x509.IncompatibleUsage:
		return &Error{
			Cause: which + " is not for servers (extendedKeyUsage without serverAuth)",
			Step:  "give the server a certificate with serverAuth",
		}
	case e.Reason == x509.NotAuthorizedToSign:
		return &Error{
			Cause: fmt.Sprintf("%q has signed the certificate and is not an authority (basicConstraints without CA:TRUE)", name(e.Cert)),
			Step:  "give the server a certificate of an authority",
		}
	}
	return &Error{Cause: fmt.Sprintf("%s is not valid: %s", which, clean(e.Error())), Step: "replace it at the server"}
}

// explainAuthority names the authority that is missing: the issuer of the last certificate
// that the server has sent.
func (s Server) explainAuthority(e x509.UnknownAuthorityError, chain []*x509.Certificate) *Error {
	if len(chain) == 0 {
		chain = []*x509.Certificate{e.Cert}
	}
	last := chain[len(chain)-1]
	issuer := issuerName(last)
	where, step := "this machine does not trust", fmt.Sprintf("set %s to a file with its certificate", s.CAKey)
	if s.CAKey == "" {
		step = "add its certificate to those of this machine (update-ca-certificates)"
	}
	if s.CAFile != "" {
		where = fmt.Sprintf("%s, %s, does not contain", s.CAKey, s.CAFile)
		step = fmt.Sprintf("add its certificate to the file of %s", s.CAKey)
	}
	switch {
	case strings.Contains(e.Error(), "insecure algorithm"):
		return &Error{Cause: "the certificate is signed with an algorithm that is no longer secure, such as SHA-1", Step: "give the server a certificate signed with SHA-256"}
	case strings.Contains(e.Error(), "candidate authority certificate"):
		return &Error{
			Cause: fmt.Sprintf("the certificate is signed by %q, with another key than the authority of that name that is trusted", issuer),
			Step:  step,
		}
	case selfSigned(chain[0]):
		return &Error{Cause: fmt.Sprintf("the certificate is self-signed, and %s %q", where, issuer), Step: step}
	case s.CAFile == "" && len(chain) == 1 && hasDownload(last):
		return &Error{
			Cause: fmt.Sprintf("the server does not send the certificate of the intermediate authority %q", issuer),
			Step:  "let the server send its full chain (fullchain.pem)",
		}
	}
	return &Error{Cause: fmt.Sprintf("the certificate is signed by %q, and %s that authority", issuer, where), Step: step}
}

// hasDownload reports whether the certificate of the issuer can be downloaded, as public
// authorities offer for their intermediate certificates.
func hasDownload(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.IssuingCertificateURL, func(u string) bool { return strings.HasPrefix(u, "http") })
}

func selfSigned(c *x509.Certificate) bool { return bytes.Equal(c.RawIssuer, c.RawSubject) }

func name(c *x509.Certificate) string { return clean(c.Subject.String()) }

func issuerName(c *x509.Certificate) string { return clean(c.Issuer.String()) }
