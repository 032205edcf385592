package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"postern/policy"
	"postern/relay"
	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/test/kit"
)

// The listeners of a fuzzServer.
const (
	starttlsListener = "submission"
	tlsListener      = "submissions"
	openListener     = "open" // without AUTH, for relayDomain only
)

const relayDomain = "example.net"

var fuzzListeners = []string{starttlsListener, tlsListener, openListener}

// A fuzzUser is a login. Only the first two are right, and may send as senders.
type fuzzUser struct {
	login, password, user string
	senders               []string
}

var fuzzUsers = []fuzzUser{
	{"alice", "wonder-7-land", "alice@example.org", []string{"alice@example.org"}},
	{"bob", "build-9-er", "bob@example.org", []string{"bob@example.org", ""}},
	{"alice", "guess-3-ed", "", nil},
	{"down", "what-5-ever", "", nil},
}

// A fuzzServer is a server between pipes and a next hop on loopback. It runs many
// programs one after the other.
type fuzzServer struct {
	server  *Server
	parts   Parts
	sockets map[string]*pipeListener
	hop     *relaytest.Hop
	relay   *owners
	held    heldServices
	log     *watchedLog
	tls     []*tls.Config
	scrams  map[string]*scram.Client
	mode    atomic.Int32 // what the hop does; see answer
	queued  atomic.Int64
	started sync.Once
	ceiling int // goroutines, without those of the hop's sessions
}

func newFuzzServer(t testing.TB) *fuzzServer {
	t.Helper()
	s := &fuzzServer{sockets: map[string]*pipeListener{}, log: &watchedLog{}, scrams: map[string]*scram.Client{}}
	s.hop = relaytest.New(t, relaytest.Options{Unix: true})
	s.hop.Handle(s.answer)
	s.relay = &owners{NextHop: s.router(t)}
	s.parts = s.assemble(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s.tls = append(s.tls, &tls.Config{
			InsecureSkipVerify: true, // the certificate is not what is tested
			ServerName:         "mail.example.org", MaxVersion: version,
			CurvePreferences:   []tls.CurveID{tls.X25519},
			ClientSessionCache: tls.NewLRUClientSessionCache(4), // spares most handshakes their cost
		})
	}
	var err error
	if s.server, err = New(s.parts); err != nil {
		t.Fatal(err)
	}
	if err := s.server.Listen(); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := errors.Join(s.server.Shutdown(ctx), <-served); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *fuzzServer) router(t testing.TB) *relay.Router {
	t.Helper()
	cfg := relay.Defaults()
	cfg.Patience = 0 // this does not test the relay
	cfg.NextHops = make([]relay.HopURL, 1)
	if err := cfg.NextHops[0].UnmarshalText([]byte(s.hop.URL())); err != nil {
		t.Fatal(err)
	}
	r, err := relay.New(cfg, relay.NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	r.Probe(context.Background())
	return r
}

func (s *fuzzServer) assemble(t testing.TB) Parts {
	t.Helper()
	cfg := Defaults()
	cfg.Hostname = "mail.example.org"
	cfg.MessageSizeLimit = 64 << 10
	cfg.Limits.Messages = 6
	cfg.ProxyTrusted = []netip.Prefix{netip.PrefixFrom(trustedProxyAddr.Addr(), 32)}
	p := Parts{
		Config:  cfg,
		Stage:   message.NewStage(t.TempDir(), 1<<20),
		Events:  NewLog(slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))),
		Sockets: map[string][]net.Listener{},
	}
	config := &tls.Config{Certificates: []tls.Certificate{kit.Certificate{}.SelfSigned(t)}, CurvePreferences: []tls.CurveID{tls.X25519}}
	services := Services{Auth: s.provider(t), Hop: s.relay}
	for _, name := range fuzzListeners {
		l := NewListener()
		l.Name, l.Mode, l.RequireAuth = name, TLS, name != openListener
		if name == starttlsListener {
			l.Mode = STARTTLS
		}
		s.sockets[name] = newPipeListener()
		p.Listeners = append(p.Listeners, ListenerParts{
			Listener: l, TLS: config, AuthFailures: 3, Policy: fuzzPolicy(t, name),
			Services: func() (Services, func()) { return services, s.held.acquire() },
		})
		p.Sockets[name] = []net.Listener{s.sockets[name]}
	}
	return p
}

// fuzzPolicy permits recipients whose domain has a dot, and without AUTH only those in
// relayDomain.
func fuzzPolicy(t testing.TB, listener string) *policy.Set {
	t.Helper()
	cfg := policy.Defaults()
	cfg.MyNetworks = policy.Networks{}
	cfg.Recipient = policy.Words{{Name: "reject_non_fqdn_recipient"}, {Name: "permit_sasl_authenticated"}, {Name: "reject"}}
	if listener == openListener {
		if err := cfg.RelayDomains.UnmarshalText([]byte(relayDomain)); err != nil {
			t.Fatal(err)
		}
		cfg.Recipient = policy.Words{{Name: "reject_non_fqdn_recipient"}, {Name: "permit_auth_destination"}, {Name: "reject"}}
	}
	set, err := policy.NewSet(cfg, &policy.Env{Resolver: net.DefaultResolver})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// queuedAs finds the queue id in a reply of answer.
func queuedAs(text string) string {
	_, id, _ := strings.Cut(text, "queued as ")
	id, _, _ = strings.Cut(id, " ")
	return strings.TrimSpace(id)
}

// answer replies for the hop: it refuses some recipients, and at the end of data it does
// what mode asks for.
func (s *fuzzServer) answer(c relaytest.Command) relaytest.Answer {
	switch {
	case c.Verb == "RCPT" && strings.HasPrefix(c.Address, "nobody@"):
		return relaytest.Say("550-5.1.1 No\x07 such", "550 5.1.1 user\x1b[2J")
	case c.Verb == "RCPT" && strings.HasPrefix(c.Address, "later@"):
		return relaytest.Say("450 4.2.0 250 2.0.0 Ok: queued as 0")
	case c.Verb == "RCPT" && strings.HasPrefix(c.Address, "gone@"):
		return relaytest.HangUp()
	case c.Verb != ".":
		return relaytest.Usual
	}
	accepted := fmt.Sprintf("250 2.0.0 Ok: queued as F%d", s.queued.Add(1))
	switch s.mode.Load() {
	case 1:
		return relaytest.Say("550 5.7.1 250 2.0.0 Ok: queued as 0")
	case 2:
		return relaytest.Say("451 4.3.0 Later")
	case 3:
		return relaytest.HangUp()
	case 4:
		return relaytest.Say(accepted + " \x1b[2J\u00e4 and more").AndHangUp()
	case 5:
		return relaytest.Say("421 4.3.2 Going down").AndHangUp()
	case 6:
		return relaytest.Raw("250 2.0.0 Ok: queu").AndHangUp()
	}
	return relaytest.Say(accepted)
}

// A watchedLog keeps the lines of the log that must not occur, and the clients that have
// connected.
type watchedLog struct {
	mu        sync.Mutex
	bad       []string
	connected []string
}

func (l *watchedLog) Write(line []byte) (int, error) {
	bad := bytes.Contains(line, []byte(`msg="internal error"`))
	for _, u := range fuzzUsers {
		bad = bad || bytes.Contains(line, []byte(u.password))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if bad {
		l.bad = append(l.bad, string(line))
	}
	if bytes.Contains(line, []byte(" msg=connected ")) {
		_, client, _ := strings.Cut(strings.TrimSpace(string(line)), " client=")
		l.connected = append(l.connected, client)
	}
	return len(line), nil
}

// clients are those that have connected since the last call.
func (l *watchedLog) clients() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.connected
	l.connected = nil
	return all
}

func (l *watchedLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	bad := l.bad
	l.bad, l.connected = nil, nil
	return bad
}

func (s *fuzzServer) dial(listener string, version int) *pipeClient {
	p := s.sockets[listener].dial(netip.MustParseAddrPort("192.0.2.7:50000"))
	return &pipeClient{pipe: p, listener: listener, config: s.tls[version&1]}
}

// play runs a program and judges the result. It returns the number of messages that were
// sent.
func (s *fuzzServer) play(t *testing.T, program []byte) (messages int) {
	s.started.Do(func() { s.warmUp(t) })
	s.mode.Store(0)
	p := &fuzzPlay{t: t, server: s, program: program}
	watchdog := time.AfterFunc(patience, func() {
		for _, c := range p.clients {
			c.giveUp()
		}
	})
	defer watchdog.Stop()
	p.run()
	for i, c := range p.clients {
		if !c.isClosed() {
			t.Errorf("connection %d is still open", i)
		}
	}
	s.rest(t)
	return judge(t, s, p)
}

// warmUp starts the goroutines that stay, and counts them.
func (s *fuzzServer) warmUp(t *testing.T) {
	p := &fuzzPlay{t: t, server: s, program: []byte{
		stepBegin, stepOpen | 1<<5, stepBegin, stepOpen | 2<<5, stepSecure, stepLine | 4<<5, 0,
	}}
	p.run()
	if !kit.Soon(func() bool { return s.hop.Open() <= 1 }) {
		t.Error("the hop has more connections than one")
	}
	time.Sleep(50 * time.Millisecond) // once
	s.ceiling = runtime.NumGoroutine() - s.hop.Open()
	s.relay.take()
}

// rest waits until all that a program has used is released.
func (s *fuzzServer) rest(t *testing.T) {
	t.Helper()
	if !kit.Soon(func() bool { return s.parts.Stage.InMemory() == 0 }) {
		t.Errorf("%d bytes of messages are left", s.parts.Stage.InMemory())
	}
	s.isEmpty(t)
	// A verdict may come after the session.
	if !kit.Soon(func() bool { return s.held.count.Load() == 0 }) || s.held.twice.Load() != 0 {
		t.Errorf("services: %d are still held, %d were released twice", s.held.count.Load(), s.held.twice.Load())
	}
	if !kit.Soon(func() bool { return runtime.NumGoroutine()-s.hop.Open() <= s.ceiling }) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		t.Errorf("%d goroutines instead of %d:\n%s", runtime.NumGoroutine()-s.hop.Open(), s.ceiling, stacks)
	}
	for _, line := range s.log.take() {
		t.Errorf("logged: %s", line)
	}
}

// isEmpty fails the test if connections are counted that have ended.
func (s *fuzzServer) isEmpty(t *testing.T) {
	t.Helper()
	for _, g := range []*connLimiter{&s.server.limiter, &s.server.proxyPending} {
		if !kit.Soon(func() bool { return g.leftover() == "" }) {
			t.Errorf("still counted: %s", g.leftover())
		}
	}
}
