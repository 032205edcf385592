package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/policy"
	"postern/relay"
	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/server/auth"
	"postern/test/kit"
)

// settings are what a test may change, with the keys of the configuration.
type settings struct {
	Server   Config        `toml:"server"`
	Listener Listener      `toml:"listener"`
	Policy   policy.Config `toml:"policy"`
	Auth     auth.Config   `toml:"auth"`
	Relay    relay.Config  `toml:"relay"`
	Hop      hopSettings   `toml:"hop"`
}

type hopSettings struct {
	Extensions []string `toml:"extensions"` // of EHLO; empty: the usual ones
}

func defaultSettings() settings {
	s := settings{
		Server:   Defaults(),
		Listener: NewListener(),
		Policy:   policy.Defaults(),
		Auth:     auth.Defaults(),
		Relay:    relay.Defaults(),
	}
	s.Server.Hostname = "mail.example.org"
	s.Listener.Name = "submission"
	s.Listener.Address = []string{"127.0.0.1:0"}
	// The tests are the only clients, and all of them come from loopback.
	s.Policy.MyNetworks = policy.Networks{}
	s.Relay.Patience = 100 * time.Millisecond
	return s
}

// A stand is a server under test, between a client and a next hop, all of them
// on loopback.
type stand struct {
	t      testing.TB
	server *Server
	parts  Parts
	hop    *relaytest.Hop
	router *relay.Router
	log    *logLines
	served chan error
}

func newStand(t testing.TB, s settings) *stand {
	t.Helper()
	d := &stand{t: t, log: &logLines{}, served: make(chan error, 1)}
	d.hop = relaytest.New(t, relaytest.Options{Extensions: s.Hop.Extensions})
	d.router = d.route(s.Relay)
	d.parts = d.assemble(s)
	server, err := New(d.parts)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	d.server = server
	go func() { d.served <- server.Serve() }()
	t.Cleanup(d.close)
	return d
}

func (d *stand) route(cfg relay.Config) *relay.Router {
	var u relay.HopURL
	if err := u.UnmarshalText([]byte(d.hop.URL())); err != nil {
		d.t.Fatal(err)
	}
	cfg.NextHops = []relay.HopURL{u}
	r, err := relay.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = r.Close() })
	r.Probe(context.Background())
	return r
}

// assemble makes the parts of a server of s. The router and the log stay.
func (d *stand) assemble(s settings) Parts {
	d.t.Helper()
	set, err := policy.NewSet(s.Policy, net.DefaultResolver)
	if err != nil {
		d.t.Fatal(err)
	}
	return Parts{
		Config:       s.Server,
		Listeners:    []Listener{s.Listener},
		TLS:          &tls.Config{Certificates: []tls.Certificate{testCertificate()}},
		Auth:         auth.Local{Passwords: users{}},
		AuthFailures: s.Auth.FailuresPerConnection,
		Policies:     map[string]*policy.Set{s.Listener.Name: set},
		Hop:          d.router,
		Stage:        message.NewStage(d.t.TempDir(), int64(s.Server.StageMemory)),
		Log:          slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// close ends the server and looks whether it has given back what it took.
func (d *stand) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = d.server.Shutdown(ctx) // cuts the clients that the test has left
	if err := <-d.served; err != nil {
		d.t.Errorf("Serve: %v", err)
	}
	kit.Eventually(d.t, "staged messages are closed", func() bool { return d.parts.Stage.InMemory() == 0 })
	if line := d.log.first("internal error"); line != "" {
		d.t.Errorf("logged: %s", line)
	}
}

func (d *stand) address() string {
	return d.server.Addrs()[d.parts.Listeners[0].Name][0].String()
}

// users is a store with alice and bob. The store of the user "down" is out of
// order, and that of "slow" takes its time.
type users struct{}

func (users) VerifyPassword(ctx context.Context, _ *auth.Peer, login, password string) (auth.Identity, error) {
	passwords := map[string]string{"alice": "secret", "bob": "other", "slow": "secret"}
	switch {
	case login == "down":
		return auth.Identity{}, errors.New("dial unix /run/store: no such file")
	case login == "slow":
		select {
		case <-ctx.Done():
			return auth.Identity{}, ctx.Err()
		case <-time.After(3 * time.Second):
		}
	case login == "locked":
		return auth.Identity{}, &auth.Failure{Kind: auth.Disabled, Store: "users"}
	case passwords[login] == "":
		return auth.Identity{}, &auth.Failure{Kind: auth.NoSuchUser, Store: "users"}
	}
	if passwords[login] != password {
		return auth.Identity{}, &auth.Failure{Kind: auth.BadPassword, Store: "users"}
	}
	return auth.Identity{User: login + "@example.org", Store: "users"}, nil
}

var testCertificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"mail.example.org"},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// logLines keeps what is logged.
type logLines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *logLines) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.all.String(), "\n"), "\n")
}

func (l *logLines) first(part string) string {
	for _, line := range l.lines() {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

func (l *logLines) count(pattern string) int {
	n := 0
	for _, line := range l.lines() {
		if glob("*"+pattern+"*", line) {
			n++
		}
	}
	return n
}

// glob reports whether s is like pattern, in which "*" stands for anything.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return s == pattern
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, last)
}

func mustPrefixes(t testing.TB, text string) []netip.Prefix {
	t.Helper()
	var all []netip.Prefix
	for _, s := range strings.Fields(text) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}
