package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An issuer signs certificates; key is its own.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var serial int64

func make1(t *testing.T, template *x509.Certificate, by *issuer, key *ecdsa.PrivateKey) *issuer {
	t.Helper()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	serial++
	template.SerialNumber = big.NewInt(serial)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().AddDate(0, 0, 80)
	}
	template.NotBefore = template.NotAfter.AddDate(-2, 0, 0)
	parent, parentKey := template, key
	if by != nil {
		parent, parentKey = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}

func authority(t *testing.T, name string, by *issuer, key *ecdsa.PrivateKey, notAfter time.Time) *issuer {
	return make1(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: notAfter}, by, key)
}

func server(t *testing.T, by *issuer, change func(*x509.Certificate)) *issuer {
	template := &x509.Certificate{DNSNames: []string{"mail.example.org"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(template)
	}
	return make1(t, template, by, nil)
}

// What a client finds, with a list of public authorities.
func TestChainProblems(t *testing.T) {
	soon, past := time.Now().AddDate(1, 0, 0), time.Now().AddDate(0, 0, -1)
	root := authority(t, "Root X1", nil, nil, soon)
	inter := authority(t, "R1", root, nil, soon)
	oldRoot := authority(t, "Old Root X3", nil, nil, past)
	cross := authority(t, "Root X1", oldRoot, root.key, past) // as ISRG Root X1 by DST Root CA X3
	expired := authority(t, "R1", root, inter.key, past)
	narrow := make1(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Narrow"}, IsCA: true, BasicConstraintsValid: true, NotAfter: soon,
		KeyUsage: x509.KeyUsageCertSign, PermittedDNSDomains: []string{"example.net"}, PermittedDNSDomainsCritical: true}, root, nil)
	scts := func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{{Id: oidSCTs, Value: []byte{4, 0}}} }
	withURL := func(c *x509.Certificate) {
		scts(c)
		c.IssuingCertificateURL = []string{"http://r1.example.net/"}
	}
	leaf := server(t, inter, nil).cert
	self := server(t, nil, nil).cert
	critical := server(t, inter, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	}).cert
	system := x509.NewCertPool()
	system.AddCert(root.cert)
	tests := []struct {
		name   string
		chain  []*x509.Certificate
		system *x509.CertPool
		level  Level
		want   string // empty for no problem
		step   string
	}{
		{"complete", []*x509.Certificate{leaf, inter.cert}, system, 0, "", ""},
		{"critical extension", []*x509.Certificate{critical, inter.cert}, system, Serious, "critical extension that clients do not know, so they refuse it (1.2.3.4)", "without it"},
		{"with the root", []*x509.Certificate{leaf, inter.cert, root.cert}, system, 0, "", ""},
		{"expired cross-signed root", []*x509.Certificate{leaf, inter.cert, cross.cert}, system, 0, "", ""},
		{"expired copy of the intermediate, too", []*x509.Certificate{leaf, expired.cert, inter.cert}, system, 0, "", ""},
		{"expired intermediate", []*x509.Certificate{leaf, expired.cert}, system, Serious, `authority "R1" in the chain is not valid now`, "replace it"},
		{"no intermediate, public", []*x509.Certificate{server(t, inter, scts).cert}, system, Serious, `the certificate of "R1"`, "append the intermediate certificates"},
		{"no intermediate, with its address", []*x509.Certificate{server(t, inter, withURL).cert}, system, Serious, `chain is incomplete`, "http://r1.example.net/"},
		{"no list of authorities", []*x509.Certificate{leaf, inter.cert}, nil, Note, `issued by "Root X1"`, ""},
		{"own authority", []*x509.Certificate{leaf, inter.cert, root.cert}, x509.NewCertPool(), Note, `issued by "Root X1", an authority that this system does not trust`, ""},
		{"self-signed", []*x509.Certificate{self}, system, Note, "is self-signed", "get one"},
		{"name constraints", []*x509.Certificate{server(t, narrow, nil).cert, narrow.cert}, system, Serious, "name constraints", "another authority"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := chainProblems(filepath.Join(t.TempDir(), "cert.pem"), tt.chain, tt.system, time.Now())
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("%+v, want nothing", got)
			case tt.want == "":
			case len(got) != 1 || got[0].Level != tt.level || !strings.Contains(got[0].Cause, tt.want) || !strings.Contains(got[0].Step, tt.step):
				t.Errorf("%+v, want level %d, %q, %q", got, tt.level, tt.want, tt.step)
			}
		})
	}
}

// The file of certbot beside an incomplete chain is found.
func TestMissingIssuerBeside(t *testing.T) {
	soon := time.Now().AddDate(1, 0, 0)
	inter := authority(t, "R1", authority(t, "Root", nil, nil, soon), nil, soon)
	leaf := server(t, inter, nil).cert
	dir := t.TempDir()
	chain := filepath.Join(dir, "chain.pem")
	writePEM(t, filepath.Join(dir, "cert.pem"), leaf)
	writePEM(t, chain, inter.cert)
	find := func() Problem {
		return chainProblems(filepath.Join(dir, "cert.pem"), []*x509.Certificate{leaf}, nil, time.Now())[0]
	}
	if p := find(); p.Level != Serious || !strings.Contains(p.Step, "cat "+dir+"/cert.pem "+chain) {
		t.Errorf("%+v", p)
	}
	full := filepath.Join(dir, "fullchain.pem")
	writePEM(t, full, leaf, inter.cert)
	if p := find(); p.Level != Serious || p.Step != "name "+full+" in cert of [[tls.certificates]]" {
		t.Errorf("%+v", p)
	}
}

func writePEM(t *testing.T, name string, certs ...*x509.Certificate) {
	t.Helper()
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The chain is sent in the order that TLS asks for, whatever that of the file is.
func TestOrder(t *testing.T) {
	soon := time.Now().AddDate(1, 0, 0)
	root := authority(t, "Root", nil, nil, soon)
	one := authority(t, "One", root, nil, soon)
	two := authority(t, "Two", one, nil, soon)
	s := server(t, two, nil)
	stray := authority(t, "Stray", nil, nil, soon)
	want := []*x509.Certificate{s.cert, two.cert, one.cert}
	for _, tt := range []struct {
		name string
		file []*x509.Certificate
		warn string
	}{
		{"right", []*x509.Certificate{s.cert, two.cert, one.cert}, ""},
		{"reversed", []*x509.Certificate{one.cert, two.cert, s.cert}, "comes before that of the server"},
		{"intermediates reversed", []*x509.Certificate{s.cert, one.cert, two.cert}, `"One" comes before that of "Two"`},
		{"twice", []*x509.Certificate{s.cert, two.cert, two.cert, one.cert}, "the same certificate as in line"},
		{"stray", []*x509.Certificate{s.cert, two.cert, stray.cert, one.cert}, `"Stray" does not belong`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			p := Pair{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
			writePEM(t, p.Cert, tt.file...)
			der, err := x509.MarshalPKCS8PrivateKey(s.key)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, p.Key, encode("PRIVATE KEY", der))
			l, err := p.load()
			if err != nil {
				t.Fatal(err)
			}
			if len(l.chain) != len(want) || len(l.cert.Certificate) != len(want) {
				t.Fatalf("%d certificates, want %d", len(l.chain), len(want))
			}
			for i, c := range want {
				if !l.chain[i].Equal(c) {
					t.Errorf("certificate %d is %s, want %s", i, subject(l.chain[i]), subject(c))
				}
			}
			if got := len(l.problems); (tt.warn == "") != (got == 0) || got > 0 && !strings.Contains(l.problems[0].Cause, tt.warn) {
				t.Errorf("%+v, want %q", l.problems, tt.warn)
			}
		})
	}
}

func TestCheckName(t *testing.T) {
	open := func(hosts ...string) *Files {
		f := &Files{}
		for _, h := range hosts {
			leaf := server(t, nil, func(c *x509.Certificate) { c.DNSNames = strings.Fields(h) }).cert
			w := &watched{}
			w.current.Store(&loaded{cert: &tls.Certificate{Leaf: leaf}})
			f.pairs = append(f.pairs, w)
		}
		return f
	}
	for _, tt := range []struct {
		host string
		f    *Files
		want string
	}{
		{"mail.example.org", open("mail.example.org"), ""},
		{"MAIL.example.org.", open("mail.example.org"), ""},
		{"mail.example.org", open("*.example.org"), ""},
		{"a.mail.example.org", open("*.example.org"), "exactly one label"},
		{"example.org", open("*.example.org"), "exactly one label"},
		{"mail.example.org", open("smtp.example.org"), "certificate is not for the name mail.example.org"},
		{"mail.example.org", open("smtp.example.org", "imap.example.org"), "certificates are not for the name"},
		{"mail.example.org", open("smtp.example.org", "mail.example.org"), ""},
		{"mail.bücher.example", open("mail.xn--bcher-kva.example"), ""},
		{"mail.bücher.example", open("mail.example"), "mail.xn--bcher-kva.example"},
		{"localhost", open("mail.example"), ""},
		{"192.0.2.1", open("mail.example"), ""},
	} {
		got := ""
		if p := tt.f.CheckName(tt.host); p != nil {
			got = p.Cause
		}
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.host, got, tt.want)
		}
	}
}
