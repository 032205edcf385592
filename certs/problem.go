package certs

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// A Level is what a Problem means for clients.
type Level int

// The levels.
const (
	Note    Level = iota // clients accept the certificate, or do so once they trust its issuer
	Warning              // they accept it now, or some do
	Serious              // they refuse it
)

// A Problem is something about a certificate that can be used that clients will, or may, not
// accept. Step is the next step in the imperative mood, or empty if Cause contains it.
type Problem struct {
	Level       Level
	Cause, Step string
}

// renew is the step for a certificate that has to be replaced by one that is like it.
const renew = "renew it (certbot renew)"

// minRSA is what the authorities (CA/Browser Forum, Baseline Requirements 6.1.5) and OpenSSL
// at its security level 2 require.
const minRSA = 2048

// leafProblems are those that can be seen in the certificate of the server alone.
func leafProblems(leaf *x509.Certificate, now time.Time) (all []Problem) {
	add := func(level Level, step, cause string, args ...any) {
		all = append(all, Problem{level, fmt.Sprintf(cause, args...), step})
	}
	switch soon := expiryWarning(leaf); {
	case now.After(leaf.NotAfter):
		add(Serious, renew, "certificate has expired on %s, so clients refuse it", leaf.NotAfter.Format(time.DateOnly))
	case now.Before(leaf.NotBefore):
		add(Serious, "set the clock of this machine, or wait if it is right", "certificate is not valid before %s; this machine's time is %s",
			leaf.NotBefore.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
	case leaf.NotAfter.Sub(now) < soon:
		add(Warning, "find out why it was not renewed (certbot renew --dry-run)", "certificate expires soon, on %s", leaf.NotAfter.Format(time.DateOnly))
	}
	if len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0 {
		add(Serious, "get one with a subjectAltName (openssl: -addext subjectAltName=DNS:NAME)",
			"certificate has no subject alternative name, only the legacy common name %q, which clients ignore", leaf.Subject.CommonName)
	}
	if usages := usageNames(leaf); len(usages) > 0 && !slices.Contains(usages, "serverAuth") && !slices.Contains(usages, "anyExtendedKeyUsage") {
		add(Serious, "get one with the extended key usage serverAuth", "certificate is not for servers: its extended key usage is %s", strings.Join(usages, ", "))
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		add(Warning, "get one with the key usage digitalSignature", "certificate has a key usage without digitalSignature, which TLS 1.3 requires")
	}
	if isSelfIssued(leaf) {
		return append(all, keyProblems(leaf)...)
	}
	if isWeakSignature(leaf) {
		add(Serious, "get a new one, which is signed with SHA-256", "certificate is signed with %v, which clients refuse", leaf.SignatureAlgorithm)
	}
	if leaf.IsCA {
		add(Warning, "get one for a server from this authority (basicConstraints CA:FALSE)", "certificate is that of an authority (CA:TRUE), which some clients refuse for a server")
	}
	return append(all, keyProblems(leaf)...)
}

func keyProblems(leaf *x509.Certificate) []Problem {
	switch key := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA {
			return []Problem{{Serious, fmt.Sprintf("certificate has a weak key, RSA with %d bits, which clients refuse", bits), "get one for a new key (" + newKeyCommand + ")"}}
		}
	case *ecdsa.PublicKey:
		if name := key.Params().Name; name == "P-224" {
			return []Problem{{Serious, "certificate has a key on the curve P-224, which TLS clients do not support", "get one for a new key (" + newKeyCommand + ")"}}
		}
	case ed25519.PublicKey:
		return []Problem{{Warning, "certificate has an Ed25519 key, which many mail clients do not support", "get one for an ECDSA key (" + newKeyCommand + ")"}}
	}
	return nil
}

const newKeyCommand = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"

// expiryWarning returns how long before its end a certificate should have been renewed: 14
// days, or a third of its lifetime if that is shorter. certbot renews after two thirds.
func expiryWarning(leaf *x509.Certificate) time.Duration {
	return min(14*24*time.Hour, leaf.NotAfter.Sub(leaf.NotBefore)/3)
}

func isWeakSignature(c *x509.Certificate) bool {
	switch c.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

// usageNames returns the extended key usages by their names in OpenSSL.
func usageNames(c *x509.Certificate) (names []string) {
	for _, u := range c.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageAny:
			names = append(names, "anyExtendedKeyUsage")
		case x509.ExtKeyUsageServerAuth:
			names = append(names, "serverAuth")
		case x509.ExtKeyUsageClientAuth:
			names = append(names, "clientAuth")
		case x509.ExtKeyUsageCodeSigning:
			names = append(names, "codeSigning")
		case x509.ExtKeyUsageEmailProtection:
			names = append(names, "emailProtection")
		case x509.ExtKeyUsageOCSPSigning:
			names = append(names, "OCSPSigning")
		case x509.ExtKeyUsageTimeStamping:
			names = append(names, "timeStamping")
		default:
			names = append(names, fmt.Sprintf("usage %d", u))
		}
	}
	for _, oid := range c.UnknownExtKeyUsage {
		names = append(names, asn1.ObjectIdentifier(oid).String())
	}
	return names
}

// keyKind returns the kind of a public key, such as "an RSA key".
func keyKind(public any) string {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("an RSA key of %d bits", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "an ECDSA key on " + key.Params().Name
	case ed25519.PublicKey:
		return "an Ed25519 key"
	}
	return "a key of a kind that is not supported"
}

// names returns the names that a certificate is for, DNS names first.
func names(leaf *x509.Certificate) []string {
	list := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		list = append(list, ip.String())
	}
	return list
}

// CheckName returns a Problem if no certificate is for host, which clients connect to, or nil.
// host may be an internationalized name. An address, and a name without a dot, is not checked,
// nor is any name if a certificate has no names at all.
func (f *Files) CheckName(host string) *Problem {
	host = strings.TrimSuffix(host, ".")
	if ascii, err := idna.Lookup.ToASCII(host); err == nil {
		host = ascii
	}
	if net.ParseIP(host) != nil || !strings.Contains(host, ".") {
		return nil
	}
	var all []string
	for _, w := range f.pairs {
		leaf := w.current.Load().cert.Leaf
		own := names(leaf)
		if len(own) == 0 || leaf.VerifyHostname(host) == nil {
			return nil
		}
		all = append(all, own...)
	}
	why := ""
	for _, name := range all {
		if suffix, ok := strings.CutPrefix(name, "*."); ok && (host == suffix || strings.HasSuffix(host, "."+suffix)) {
			why = fmt.Sprintf("; %s is for exactly one label before %s", name, suffix)
		}
	}
	subjectOf := "certificate is"
	if len(f.pairs) > 1 {
		subjectOf = "certificates are"
	}
	return &Problem{Serious,
		fmt.Sprintf("%s not for the name %s, which clients connect to (server.hostname), but for %s%s", subjectOf, host, fewNames(all), why),
		fmt.Sprintf("get one that has this name, too (certbot certonly --expand -d %s)", host)}
}

// fewNames joins up to five names.
func fewNames(all []string) string {
	const shown = 5
	if len(all) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:shown], ", "), len(all)-shown)
	}
	return strings.Join(all, ", ")
}
