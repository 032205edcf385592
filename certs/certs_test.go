package certs

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

// A maker makes certificates for tests, which are identified by their serial numbers.
type maker struct {
	serial    int64
	hosts     []string
	notBefore time.Time // zero is an hour ago
	notAfter  time.Time // zero is in 90 days
	key       crypto.Signer
}

func (m maker) pem(t testing.TB) (certPEM, keyPEM []byte) {
	t.Helper()
	c := kit.Certificate{Serial: m.serial, Hosts: m.hosts, NotBefore: m.notBefore, NotAfter: m.notAfter, Key: m.key}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(90 * 24 * time.Hour)
	}
	return c.SelfSignedPEM(t)
}

// in writes the pair into a folder and returns its names.
func (m maker) in(t testing.TB, folder string) Pair {
	t.Helper()
	p := Pair{Cert: filepath.Join(folder, "fullchain.pem"), Key: filepath.Join(folder, "privkey.pem")}
	certPEM, keyPEM := m.pem(t)
	replace(t, p.Cert, certPEM)
	replace(t, p.Key, keyPEM)
	return p
}

func newRSA(t *testing.T) crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// replace writes a file and renames it over another one.
func replace(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	folder := filepath.Join(elem...)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

func config(pairs ...Pair) Config {
	cfg := Defaults()
	cfg.Certificates = pairs
	return cfg
}

func open(t *testing.T, events Events, pairs ...Pair) *Files {
	t.Helper()
	f, err := OpenFiles(config(pairs...), events, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// handshake connects a client to a server with the given configurations, over
// a real socket, and returns the state of the client.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		serveOne(l, server)
	}()
	defer func() { _ = l.Close(); <-served }()
	if client == nil {
		client = &tls.Config{}
	}
	client.InsecureSkipVerify = true // tests check the serial number
	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	if _, err := io.ReadAll(conn); err != nil { // TLS 1.3 sends its tickets after the handshake
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), nil
}

func serveOne(l net.Listener, server *tls.Config) {
	raw, err := l.Accept()
	if err != nil {
		return
	}
	conn := tls.Server(raw, server)
	defer conn.Close()
	_ = raw.SetDeadline(time.Now().Add(kit.Patience))
	if conn.Handshake() == nil {
		_, _ = conn.Write([]byte("220 ready\r\n"))
	}
}

// serialOf returns the serial number of the certificate that a client receives.
func serialOf(t *testing.T, server, client *tls.Config) int64 {
	t.Helper()
	state, err := handshake(t, server, client)
	if err != nil {
		t.Fatal(err)
	}
	return state.PeerCertificates[0].SerialNumber.Int64()
}

func TestChoice(t *testing.T) {
	rsaKey := newRSA(t)
	f := open(t, NewLog(slog.New(slog.DiscardHandler)),
		maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, t.TempDir()),
		maker{serial: 2, hosts: []string{"mail.example.org"}, key: rsaKey}.in(t, t.TempDir()),
		maker{serial: 3, hosts: []string{"*.example.com"}}.in(t, t.TempDir()),
		maker{serial: 4, hosts: []string{"smtp.example.net"}, key: rsaKey}.in(t, t.TempDir()),
	)
	server := TLSConfig(Defaults(), f)
	rsaOnly := []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	tests := []struct {
		name   string
		client *tls.Config
		want   int64
	}{
		{"by name", &tls.Config{ServerName: "smtp.example.net"}, 4},
		{"by name in another spelling", &tls.Config{ServerName: "SMTP.Example.NET"}, 4},
		{"first of two for one name", &tls.Config{ServerName: "mail.example.org"}, 1},
		{"RSA for a client that knows nothing else", &tls.Config{ServerName: "mail.example.org", CipherSuites: rsaOnly, MaxVersion: tls.VersionTLS12}, 2},
		{"wildcard", &tls.Config{ServerName: "smtp.example.com"}, 3},
		{"wildcard covers one label", &tls.Config{ServerName: "a.b.example.com"}, 1},
		{"unknown name", &tls.Config{ServerName: "other.example.org"}, 1},
		{"no name", &tls.Config{}, 1},
		{"no name, RSA only", &tls.Config{CipherSuites: rsaOnly, MaxVersion: tls.VersionTLS12}, 2},
		{"no pair for name and algorithm", &tls.Config{ServerName: "smtp.example.com", CipherSuites: rsaOnly, MaxVersion: tls.VersionTLS12}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := serialOf(t, server, tt.client); got != tt.want {
				t.Errorf("got certificate %d, want %d", got, tt.want)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	f := open(t, NewLog(slog.New(slog.DiscardHandler)), maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, t.TempDir()))
	only13 := Defaults()
	if err := only13.MinVersion.UnmarshalText([]byte("1.3")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		cfg  Config
		max  uint16
		ok   bool
	}{
		{"1.1 is refused", Defaults(), tls.VersionTLS11, false},
		{"1.2 is spoken", Defaults(), tls.VersionTLS12, true},
		{"1.3 is spoken", Defaults(), tls.VersionTLS13, true},
		{"1.2 is refused where 1.3 is asked for", only13, tls.VersionTLS12, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			state, err := handshake(t, TLSConfig(tt.cfg, f), &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tt.max})
			if (err == nil) != tt.ok {
				t.Fatalf("handshake: %v, want success: %v", err, tt.ok)
			}
			if tt.ok && state.Version != tt.max {
				t.Errorf("spoke %s", tls.VersionName(state.Version))
			}
		})
	}
}

// A client that offers an ALPN protocol is accepted.
func TestForeignALPN(t *testing.T) {
	f := open(t, NewLog(slog.New(slog.DiscardHandler)), maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, t.TempDir()))
	state, err := handshake(t, TLSConfig(Defaults(), f), &tls.Config{NextProtos: []string{"x-unheard-of"}})
	if err != nil || state.NegotiatedProtocol != "" {
		t.Errorf("got protocol %q, error %v", state.NegotiatedProtocol, err)
	}
}

func TestResumption(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			folder := t.TempDir()
			pair := maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, folder)
			f := open(t, NewLog(slog.New(slog.DiscardHandler)), pair)
			shared := NewShared(Defaults(), f)
			client := &tls.Config{ServerName: "mail.example.org", MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			resumed := func() bool {
				t.Helper()
				state, err := handshake(t, shared.Config(), client)
				if err != nil {
					t.Fatal(err)
				}
				return state.DidResume
			}
			if resumed() {
				t.Error("the first connection resumed something")
			}
			if !resumed() {
				t.Error("the second connection did not resume the first")
			}
			maker{serial: 2, hosts: []string{"mail.example.org"}}.in(t, folder)
			if err := f.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !resumed() {
				t.Error("a new certificate has ended the sessions")
			}
			shared.Set(Defaults(), open(t, NewLog(slog.New(slog.DiscardHandler)), pair))
			if !resumed() {
				t.Error("a new configuration has ended the sessions")
			}
			if got := serialOf(t, shared.Config(), nil); got != 2 {
				t.Errorf("new clients see certificate %d, want 2", got)
			}
		})
	}
}

func TestSharedSetsVersion(t *testing.T) {
	f := open(t, NewLog(slog.New(slog.DiscardHandler)), maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, t.TempDir()))
	shared := NewShared(Defaults(), f)
	cfg := Defaults()
	cfg.MinVersion = tls.VersionTLS13
	shared.Set(cfg, f)
	if _, err := handshake(t, shared.Config(), &tls.Config{MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is spoken although the new configuration forbids it")
	}
}

func TestSelfSigned(t *testing.T) {
	certPEM, keyPEM, err := SelfSigned([]string{"localhost", "127.0.0.1", "::1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(pair.Leaf)
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: trusted}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, _, err := SelfSigned(nil, time.Hour); err == nil {
		t.Error("a certificate for nobody was made")
	}
}

func TestValidate(t *testing.T) {
	pair := Pair{Cert: "a.pem", Key: "a.key"}
	tests := []struct {
		name string
		cfg  Config
		want string // the invalid keys
	}{
		{"defaults", Defaults(), ""},
		{"none", config(), "certificates"},
		{"key itself", config(Pair{Cert: "a.pem", Key: "-----BEGIN PRIVATE KEY-----\nMC4C"}), "certificates[0].key"},
		{"no key", config(pair, Pair{Cert: "b.pem"}), "certificates[1].key"},
		{"no certificate", config(Pair{Key: "b.key"}), "certificates[0].cert"},
		{"twice", config(pair, pair), "certificates[1]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var keys []string
			tt.cfg.Validate(func(key, _ string) { keys = append(keys, key) })
			if got := strings.Join(keys, " "); got != tt.want {
				t.Errorf("complained of %q, want %q", got, tt.want)
			}
		})
	}
}

// BenchmarkGetCertificate selects one of two pairs by the client's name.
func BenchmarkGetCertificate(b *testing.B) {
	folder, other := b.TempDir(), b.TempDir()
	f, err := OpenFiles(config(
		maker{serial: 1, hosts: []string{"mail.example.org"}}.in(b, folder),
		maker{serial: 2, hosts: []string{"mail.example.net"}}.in(b, other),
	), NewLog(slog.New(slog.DiscardHandler)), nil)
	if err != nil {
		b.Fatal(err)
	}
	hello := &tls.ClientHelloInfo{
		ServerName: "mail.example.net", SupportedVersions: []uint16{tls.VersionTLS13},
		CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256}, SupportedCurves: []tls.CurveID{tls.X25519},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	}
	b.ReportAllocs()
	for b.Loop() {
		if c, err := f.GetCertificate(hello); err != nil || c.Leaf.SerialNumber.Int64() != 2 {
			b.Fatal(c, err)
		}
	}
}
