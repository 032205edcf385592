package neterr

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	return authority{}.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
}

// issue signs a certificate, that of the authority itself if it has none.
func (a authority) issue(t *testing.T, template *x509.Certificate) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if a.cert == nil {
		a = authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return authority{cert, key}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var server = Server{
	Name: "LDAP server", Address: "ldap.example.org:636", AddressKey: "server_host", Host: "ldap.example.org", CAKey: "ca_file",
	WithoutTLS: "write ldap://", WithTLS: "write ldaps://",
}

// handshake returns the error of a client that connects to a server with TLS.
func handshake(t *testing.T, client, config *tls.Config) error {
	t.Helper()
	return meet(t, client, func(c net.Conn) { _ = tls.Server(c, config).Handshake() })
}

// meet returns the error of a handshake with a server that does what it likes.
func meet(t *testing.T, client *tls.Config, serve func(net.Conn)) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			serve(c)
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer c.Close()
	conn := tls.Client(c, client)
	if err := conn.Handshake(); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1)) // TLS 1.3: the server refuses the client after its handshake
	return err
}

// want requires an explanation with all of the texts.
func want(t *testing.T, got error, texts ...string) {
	t.Helper()
	if _, ok := errors.AsType[*Error](got); !ok {
		t.Errorf("not explained: %v", got)
		return
	}
	for _, text := range texts {
		if !strings.Contains(got.Error(), text) {
			t.Errorf("%q is not in %q", text, got)
		}
	}
}

func TestCertificates(t *testing.T) {
	ca, other, twin := newAuthority(t, "our CA"), newAuthority(t, "another CA"), newAuthority(t, "our CA")
	host := []string{"ldap.example.org"}
	intermediate := ca.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "R3"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	for name, test := range map[string]struct {
		by       authority
		template x509.Certificate
		file     bool
		want     []string
	}{
		"other name": {ca, x509.Certificate{DNSNames: []string{"mail.example.org", "a", "b", "c", "d"}, IPAddresses: []net.IP{{192, 0, 2, 1}}}, true,
			[]string{"is for mail.example.org, a, b, c and 2 other names, and not for ldap.example.org; write a name of the certificate in server_host"}},
		"common name":  {ca, x509.Certificate{Subject: pkix.Name{CommonName: "ldap.example.org\x1b"}}, true, []string{`only the common name "ldap.example.org"`, "subjectAltName=DNS:ldap.example.org"}},
		"no name":      {ca, x509.Certificate{}, true, []string{"names no host"}},
		"expired":      {ca, x509.Certificate{DNSNames: host, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(86400, 0)}, true, []string{"expired on 1970-01-0", "renew"}},
		"not yet":      {ca, x509.Certificate{DNSNames: host, NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)}, true, []string{"valid from", "set the clock"}},
		"clients only": {ca, x509.Certificate{DNSNames: host, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, true, []string{"not for servers"}},
		"unknown":      {other, x509.Certificate{DNSNames: host}, false, []string{`signed by "CN=another CA", and this machine does not trust`, "set ca_file"}},
		"not in file":  {other, x509.Certificate{DNSNames: host}, true, []string{"ca_file, /etc/ca.pem, does not contain that authority; add"}},
		"other key":    {twin, x509.Certificate{DNSNames: host}, true, []string{`signed by "CN=our CA", with another key`}},
		"self-signed":  {authority{}, x509.Certificate{Subject: pkix.Name{CommonName: "x"}, DNSNames: host}, false, []string{`is self-signed, and this machine does not trust "CN=x"`}},
		"incomplete":   {intermediate, x509.Certificate{DNSNames: host, IssuingCertificateURL: []string{"http://ca.example.org/r3.der"}}, false, []string{`does not send the certificate of the intermediate authority "CN=R3"`}},
	} {
		t.Run(name, func(t *testing.T) {
			leaf := test.by.issue(t, &test.template)
			pool := x509.NewCertPool()
			pool.AddCert(ca.cert)
			s := server
			if test.file {
				s.CAFile = "/etc/ca.pem"
			}
			err := handshake(t, &tls.Config{ServerName: "ldap.example.org", RootCAs: pool},
				&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.cert.Raw}, PrivateKey: leaf.key}}})
			got := s.Explain(Handshake, err)
			want(t, got, test.want...)
			if !errors.Is(got, err) || s.Explain(Handshake, got) != got {
				t.Error("the error is lost, or explained twice")
			}
		})
	}
}

func TestProtocols(t *testing.T) {
	any := &tls.Config{InsecureSkipVerify: true}
	cert := newAuthority(t, "x")
	pair := []tls.Certificate{{Certificate: [][]byte{cert.cert.Raw}, PrivateKey: cert.key}}
	say := func(text string) error {
		return meet(t, any, func(c net.Conn) {
			_, _ = c.Write([]byte(text))
			_, _ = c.Read(make([]byte, 1000))
		})
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{say("220 mail.example.org ESMTP\r\n"), "speaks SMTP without TLS on this port; write ldap://"},
		{say("* OK IMAP ready\r\n"), "speaks IMAP without TLS"},
		{say("hello world"), "speaks no TLS on this port; write ldap://"},
		{meet(t, any, func(net.Conn) {}), "closes the connection when TLS begins"},
		{handshake(t, any, &tls.Config{Certificates: pair, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}), "older than 1.2"},
		{handshake(t, any, &tls.Config{Certificates: pair, ClientAuth: tls.RequireAnyClientCert}), "demands a client certificate"},
		{handshake(t, any, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }}), "refuses TLS"},
		{context.DeadlineExceeded, "does not answer the TLS handshake in time"},
	} {
		want(t, server.Explain(Handshake, test.err), test.want)
	}
	want(t, server.Foreign([]byte("\x15\x03\x03\x00\x02"), errNone), "expects TLS from the first byte on this port; write ldaps://")
	want(t, server.Foreign([]byte("J\x00\x00\x00\x0a8."), errNone), "speaks the protocol of MySQL")
	if got := server.Foreign([]byte("\x00\x01\x02\x03\x04"), errNone); got != errNone {
		t.Errorf("%v", got)
	}
}

var errNone = errors.New("something else")

func TestConnecting(t *testing.T) {
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{dial(syscall.ECONNREFUSED), "nothing listens on ldap.example.org:636 (connection refused); start the LDAP server there, or correct host and port in server_host"},
		{dial(syscall.EHOSTUNREACH), "no route"},
		{dial(syscall.EACCES), "does not allow"},
		{dial(syscall.ETIMEDOUT), "does not answer the connection request in time; open the port"},
		{&net.DNSError{Name: "ldap.example.org", IsNotFound: true}, `the host name "ldap.example.org" does not exist (no such host); correct it in server_host`},
		{&net.DNSError{Name: "ldap.example.org", Err: "i/o timeout", Server: "192.0.2.53:53", IsTimeout: true}, "the resolver 192.0.2.53:53 gives no answer"},
	} {
		want(t, server.Explain(Dial, test.err), test.want)
	}
	for _, err := range []error{nil, context.Canceled, errNone} {
		if got := server.Explain(Dial, err); got != err {
			t.Errorf("%v becomes %v", err, got)
		}
	}
	_, err := net.Dial("unix", filepath.Join(t.TempDir(), "none"))
	if got := server.Explain(Dial, err); !strings.Contains(got.Error(), "does not exist: start the server") {
		t.Errorf("%v", got)
	}
}

func TestReplies(t *testing.T) {
	want(t, server.Explain(Reply, syscall.ECONNRESET), "closes the connection without an answer", "expects TLS", "write ldaps://")
	want(t, server.Explain(Reply, context.DeadlineExceeded), "accepts the connection, and does not answer in time; read the log of the LDAP server there")
	plain := server
	plain.WithTLS = ""
	want(t, plain.Explain(Reply, syscall.ECONNRESET), "closes the connection without an answer (EOF); read the log")
}
