package kit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A CA signs the certificates of one test. Clients trust File alone.
type CA struct {
	File string
	Pool *x509.CertPool
	cert *x509.Certificate
	key  crypto.Signer
}

// NewCA makes a CA and writes its own certificate into dir.
func NewCA(t testing.TB, dir string) *CA {
	t.Helper()
	key := newKey(t)
	template := newTemplate(1, "postern test CA", time.Time{})
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	cert := sign(t, template, template, key.Public(), key)
	c := &CA{File: filepath.Join(dir, "ca.pem"), Pool: x509.NewCertPool(), cert: cert, key: key}
	c.Pool.AddCert(cert)
	if err := os.WriteFile(c.File, encode("CERTIFICATE", cert.Raw), 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

// Issue writes a certificate for localhost and for postern.example.org, and its key. The serial number
// distinguishes it from others.
func (c *CA) Issue(t testing.TB, serial int64, certFile, keyFile string) {
	t.Helper()
	certPEM, keyPEM := Certificate{Serial: serial, Hosts: []string{"localhost", "127.0.0.1", "postern.example.org"}}.signedBy(t, c).pem(t)
	if err := errors.Join(os.WriteFile(certFile, certPEM, 0o644), os.WriteFile(keyFile, keyPEM, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// A Certificate describes the certificate of a server.
type Certificate struct {
	Serial    int64         // 0 is 1
	Hosts     []string      // names and IP addresses; none are localhost and 127.0.0.1
	NotBefore time.Time     // zero is an hour ago
	NotAfter  time.Time     // zero is tomorrow
	Key       crypto.Signer // nil is a new ECDSA P-256 key
}

// SelfSigned makes a self-signed certificate. Its Leaf is set.
func (c Certificate) SelfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	return tls.Certificate(c.signedBy(t, nil))
}

// SelfSignedPEM makes a self-signed certificate and returns it and its key in PEM.
func (c Certificate) SelfSignedPEM(t testing.TB) (certPEM, keyPEM []byte) {
	t.Helper()
	return c.signedBy(t, nil).pem(t)
}

// SignedBy makes a certificate that ca signs, and returns it and its key in PEM.
func (c Certificate) SignedBy(t testing.TB, ca *CA) (certPEM, keyPEM []byte) {
	t.Helper()
	return c.signedBy(t, ca).pem(t)
}

type issued tls.Certificate

func (c Certificate) signedBy(t testing.TB, ca *CA) issued {
	t.Helper()
	if c.Key == nil {
		c.Key = newKey(t)
	}
	if c.Hosts == nil {
		c.Hosts = []string{"localhost", "127.0.0.1"}
	}
	template := newTemplate(max(c.Serial, 1), c.Hosts[0], c.NotAfter)
	if !c.NotBefore.IsZero() {
		template.NotBefore = c.NotBefore
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, host := range c.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	parent, key := template, c.Key
	if ca != nil {
		parent, key = ca.cert, ca.key
	}
	leaf := sign(t, template, parent, c.Key.Public(), key)
	return issued{Certificate: [][]byte{leaf.Raw}, PrivateKey: c.Key, Leaf: leaf}
}

func (c issued) pem(t testing.TB) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE", c.Certificate[0]), encode("PRIVATE KEY", key)
}

func newTemplate(serial int64, name string, notAfter time.Time) *x509.Certificate {
	if notAfter.IsZero() {
		notAfter = time.Now().Add(24 * time.Hour)
	}
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     notAfter,
	}
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
