package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/policy"
	"postern/relay"
	"postern/relay/dedup"
	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/server/auth"
	"postern/test/kit"
)

// settings are what a test can set, with the keys of the configuration.
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

// A testServer is a server on loopback, with the relay and a next hop. Its log is
// written to log at the level debug.
type testServer struct {
	t      testing.TB
	server *Server
	parts  Parts
	hop    *relaytest.Hop
	router *relay.Router
	users  *users

	duplicates *dedup.Receipts
	log        *kit.LogBuffer
	served     chan error

	services atomic.Pointer[Services] // the newest ones
	held     heldServices
	panics   atomic.Pointer[string] // the call that panics; see at
}

// newTestServer starts a server that ends with the test.
func newTestServer(t testing.TB, s settings) *testServer {
	t.Helper()
	d := &testServer{t: t, users: newUsers(), log: new(kit.LogBuffer), served: make(chan error, 1)}
	d.hop = relaytest.New(t, relaytest.Options{Extensions: s.Hop.Extensions})
	d.router = d.route(s.Relay)
	log := slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	d.duplicates = dedup.NewReceipts(dedup.NewLog(log))
	d.services.Store(&Services{Auth: auth.Local{Passwords: d.users}, Hop: d.duplicates.Before(d.router)})
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

func (d *testServer) route(cfg relay.Config) *relay.Router {
	var u relay.HopURL
	if err := u.UnmarshalText([]byte(d.hop.URL())); err != nil {
		d.t.Fatal(err)
	}
	cfg.NextHops = []relay.HopURL{u}
	r, err := relay.New(cfg, relay.NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = r.Close() })
	r.Probe(context.Background())
	return r
}

// assemble makes the parts of a server from s, with the router and the log of d.
func (d *testServer) assemble(s settings) Parts {
	d.t.Helper()
	set, err := policy.NewSet(s.Policy, &policy.Env{Resolver: net.DefaultResolver})
	if err != nil {
		d.t.Fatal(err)
	}
	stage := message.NewStage(d.t.TempDir(), int64(s.Server.StageMemory))
	if s.Server.StageDisk != 0 {
		stage.SetLimits(message.Limits{Memory: int64(s.Server.StageMemory), Disk: int64(s.Server.StageDisk), Message: int64(s.Server.MessageSizeLimit)})
	}
	return Parts{
		Config: s.Server,
		Listeners: []ListenerParts{{
			Listener:     s.Listener,
			TLS:          &tls.Config{Certificates: []tls.Certificate{kit.Certificate{Hosts: []string{"mail.example.org"}}.SelfSigned(d.t)}},
			AuthFailures: s.Auth.FailuresPerConnection,
			Policy:       set,
			Services:     d.acquire,
		}},
		Stage:  stage,
		Events: NewLog(d.log.Logger()),
	}
}

// setStore replaces the store of passwords, also for connections that are open.
func (d *testServer) setStore(store auth.PasswordVerifier) {
	d.services.Store(&Services{Auth: auth.Local{Passwords: store}, Hop: d.router})
}

// acquire is the Services of the listener. It counts what is held.
func (d *testServer) acquire() (Services, func()) {
	return d.faults(*d.services.Load()), d.held.acquire()
}

// heldServices counts services that are acquired and not yet released.
type heldServices struct {
	count    atomic.Int32
	acquired atomic.Int32 // in total
	twice    atomic.Int32 // how often some were released again
}

func (h *heldServices) acquire() (release func()) {
	h.count.Add(1)
	h.acquired.Add(1)
	released := new(atomic.Bool)
	return func() {
		h.count.Add(-1)
		if released.Swap(true) {
			h.twice.Add(1)
		}
	}
}

// close ends the server, and checks that all staged messages are closed, that all
// services are released, each once, and that there was no panic.
func (d *testServer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = d.server.Shutdown(ctx) // aborts the connections that the test has left open
	d.duplicates.Close()
	if err := <-d.served; err != nil {
		d.t.Errorf("Serve: %v", err)
	}
	kit.Eventually(d.t, "staged messages are closed", func() bool { return d.parts.Stage.InMemory() == 0 && d.parts.Stage.OnDisk() == 0 })
	kit.Eventually(d.t, "services are released", func() bool { return d.held.count.Load() == 0 })
	if n := d.held.twice.Load(); n > 0 {
		d.t.Errorf("services were released again %d times", n)
	}
	if line := d.log.First("internal error"); d.panics.Load() == nil && line != "" {
		d.t.Errorf("logged: %s", line)
	}
}

func (d *testServer) address() string {
	return d.server.Addrs()[d.parts.Listeners[0].Name][0].String()
}

// beginShutdown calls Shutdown in another goroutine. It returns when all connections
// have been asked to end, with a channel for the result.
func (d *testServer) beginShutdown(limit time.Duration) (stopped <-chan error, err error) {
	probe, err := d.openProbe()
	if err != nil {
		return nil, err
	}
	defer probe.Close()
	result := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		result <- d.server.Shutdown(ctx)
	}()
	_ = probe.SetReadDeadline(time.Now().Add(patience))
	_, err = io.Copy(io.Discard, probe)
	d.server.mu.Lock() // Shutdown asks all connections while it holds the lock
	defer d.server.mu.Unlock()
	return result, err
}

// openProbe opens a connection, and returns when the server has registered it: as a session, or
// as one without its PROXY header.
func (d *testServer) openProbe() (net.Conn, error) {
	conn, err := net.Dial("tcp", d.address())
	if err != nil {
		return nil, err
	}
	if !kit.Soon(func() bool { return d.session(conn) != nil || d.server.proxyPending.count() > 0 }) {
		_ = conn.Close()
		return nil, errors.New("the server does not accept a connection")
	}
	return conn, nil
}

// session is the session of a client, or nil.
func (d *testServer) session(client net.Conn) (found *session) {
	address := client.LocalAddr().String()
	d.server.forEach(func(n *session) {
		if n.conn.Remote().String() == address {
			found = n
		}
	})
	return found
}

// isEmpty reports whether no connection is counted.
func (d *testServer) isEmpty() bool { return d.server.limiter.count() == 0 }

// leftover describes what is counted, or is empty if nothing is.
func (g *connLimiter) leftover() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	waiting := 0
	for c := range g.waiting {
		waiting += g.waiting[c].Len()
	}
	if g.open == 0 && g.counts == [classes]int{} && waiting == 0 && len(g.clients) == 0 && len(g.users) == 0 {
		return ""
	}
	return fmt.Sprintf("open %d, classes %v, waiting %d, clients %v, users %v", g.open, g.counts, waiting, g.clients, g.users)
}

func (g *connLimiter) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// users is a store with alice and bob. For "down" it is out of order, and for "slow" it
// answers when a test calls answer, or the context ends.
type users struct {
	asked   chan struct{} // receives one value for each question about "slow"
	answers chan struct{} // closed by answer
	answer  func()
}

func newUsers() *users {
	u := &users{asked: make(chan struct{}, 10), answers: make(chan struct{})}
	u.answer = sync.OnceFunc(func() { close(u.answers) })
	return u
}

func (u *users) VerifyPassword(ctx context.Context, _ *auth.Peer, login, password string) (auth.Identity, error) {
	passwords := map[string]string{"alice": "secret", "bob": "other", "slow": "secret"}
	switch {
	case login == "down":
		return auth.Identity{}, errors.New("dial unix /run/store: no such file")
	case login == "slow":
		u.asked <- struct{}{}
		select {
		case <-ctx.Done():
			return auth.Identity{}, ctx.Err()
		case <-u.answers:
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

// mustPrefixes parses networks with blanks between them.
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

// dial opens a connection that ends with the test.
func (d *testServer) dial() *client {
	d.t.Helper()
	c, err := dial(d.address(), d.parts.Listeners[0].Mode)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = c.raw.Close() })
	return c
}

// dialFrom is dial from another address of this machine.
func (d *testServer) dialFrom(address string) *client {
	d.t.Helper()
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: patience}
	conn, err := from.Dial("tcp", d.address())
	if err != nil {
		d.t.Fatal(err)
	}
	c := newClient(conn.(*net.TCPConn), d.parts.Listeners[0].Mode)
	d.t.Cleanup(func() { _ = c.raw.Close() })
	return c
}

// join opens a connection and logs in as alice.
func (d *testServer) join() *client {
	d.t.Helper()
	c := d.dial()
	if err := c.login("alice secret"); err != nil {
		d.t.Fatalf("%v\n%s", err, c.transcript())
	}
	return c
}

// must is converse, and fails the test for an error.
func (c *client) must(t *testing.T, commands ...string) {
	t.Helper()
	if err := c.converse(commands...); err != nil {
		t.Fatalf("%v\n%s", err, c.transcript())
	}
}
