package pemfile

import (
	"crypto/x509"
	"fmt"
	"strings"

	"postern/internal/fileperm"
)

// A Certificate is a certificate and the line where its block begins.
type Certificate struct {
	*x509.Certificate
	Line int
}

// Certificates are the certificates of a file, at least one, in the order of the file.
type Certificates struct {
	List     []Certificate
	Warnings []string // repairs, and blocks that are ignored
	KeyLine  int      // of the first private key in the file, or 0
}

// ReadCertificates reads a file with a certificate and its chain. The error of a file with
// something else is a *Wrong. That of opening it contains an *fs.PathError.
func ReadCertificates(name string) (*Certificates, error) {
	f, err := read(name, forCertificates)
	if err != nil {
		return nil, err
	}
	c := &Certificates{Warnings: f.warnings()}
	var others []Block
	for _, b := range f.blocks {
		if !isCertificate(b.Type) {
			others = append(others, b)
			continue
		}
		cert, err := f.certificate(b)
		if err != nil {
			return nil, err
		}
		c.List = append(c.List, Certificate{cert, b.Line})
	}
	for _, b := range others {
		if err := f.noCertificate(b, len(c.List) == 0); err != nil {
			return nil, err
		}
		switch {
		case !isKey(b.Type):
			c.Warnings = append(c.Warnings, f.ignored(b))
		case c.KeyLine == 0:
			c.KeyLine = b.Line
		}
	}
	if len(c.List) == 0 {
		return nil, fmt.Errorf("%s contains no certificate, only %s; name the file with the certificate", name, types(f.blocks))
	}
	return c, nil
}

// X509 CERTIFICATE is an old name (RFC 7468, section 5.1).
func isCertificate(label string) bool { return label == "CERTIFICATE" || label == "X509 CERTIFICATE" }

func (f *file) certificate(b Block) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(b.DER)
	if err == nil {
		return cert, nil
	}
	if strings.Contains(err.Error(), "unsupported elliptic curve") {
		return nil, fmt.Errorf("%s, line %d: a certificate with a key of the kind %s, which TLS clients do not support; get one with an ECDSA key on the curve P-256",
			f.name, b.Line, certificateAlgorithm(b.DER))
	}
	if strings.Contains(err.Error(), "invalid ECDSA parameters") {
		return nil, fmt.Errorf("%s, line %d: a certificate for a key with explicit curve parameters, which TLS clients do not support; get one for a key on the named curve P-256",
			f.name, b.Line)
	}
	return nil, f.damaged(b, err)
}

// noCertificate returns the error for a block that is no certificate. Those that may stand
// beside certificates are an error only if there is none (alone).
func (f *file) noCertificate(b Block, alone bool) error {
	name := fileperm.ShellQuote(f.name)
	switch {
	case strings.HasSuffix(b.Type, "CERTIFICATE REQUEST"):
		return f.wrong(b, "a certificate request", "send it to a CA and name the certificate that it returns")
	case b.Type == "TRUSTED CERTIFICATE":
		return f.wrong(b, "a certificate with trust settings of OpenSSL (TRUSTED CERTIFICATE)",
			fmt.Sprintf("run \"openssl x509 -in %s -out %s\" and name the new file", name, f.want.output))
	case b.Type == "PKCS7" || b.Type == "CMS" || b.Type == "PKCS #7 SIGNED DATA":
		return f.wrong(b, "certificates in PKCS#7", fmt.Sprintf("run \"openssl pkcs7 -print_certs -in %s -out %s\" and name the new file", name, f.want.output))
	case !alone:
		return nil
	case isKey(b.Type):
		return f.wrong(b, FoundKey, "name the file with the certificate")
	case strings.HasSuffix(b.Type, "PUBLIC KEY"):
		return f.wrong(b, "a public key", "name the file with the certificate that a CA has returned")
	}
	return nil
}

func (f *file) ignored(b Block) string {
	return fmt.Sprintf("%s, line %d: the block %q is ignored; remove it", f.name, b.Line, b.Type)
}

// types lists the types of blocks, each once.
func types(blocks []Block) string {
	var list []string
	seen := make(map[string]bool)
	for _, b := range blocks {
		if !seen[b.Type] && len(list) < 5 {
			list = append(list, fmt.Sprintf("%q (line %d)", b.Type, b.Line))
		}
		seen[b.Type] = true
	}
	return strings.Join(list, ", ")
}

// ReadAuthorities reads a file with the certificates of trusted authorities. A certificate
// that cannot be parsed is a warning if there are others. The warnings are complete sentences
// with the name of the file.
func ReadAuthorities(name string) (pool *x509.CertPool, warnings []string, err error) {
	f, err := read(name, forAuthorities)
	if err != nil {
		return nil, nil, err
	}
	pool, warnings = x509.NewCertPool(), f.warnings()
	found := 0
	var first error
	for _, b := range f.blocks {
		if !isCertificate(b.Type) {
			if err := f.noCertificate(b, len(f.blocks) == 1); err != nil {
				return nil, nil, err
			}
			warnings = append(warnings, f.ignored(b))
			continue
		}
		cert, err := f.certificate(b)
		if err != nil {
			first = err
			warnings = append(warnings, err.Error())
			continue
		}
		pool.AddCert(cert)
		found++
	}
	switch {
	case found > 0:
		return pool, warnings, nil
	case first != nil:
		return nil, nil, first
	}
	return nil, nil, fmt.Errorf("%s contains no certificate, only %s; name the file with the certificates of the authorities", name, types(f.blocks))
}
