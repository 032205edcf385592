package server

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/xdg-go/scram"

	"postern/policy"
	"postern/relay"
	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/test/kit"
)

// The listeners of a fuzzStand.
const (
	starttlsListener = "submission"
	tlsListener      = "submissions"
	openListener     = "open" // without AUTH, for relayDomain only
)

const relayDomain = "example.net"

var fuzzListeners = []string{starttlsListener, tlsListener, openListener}

// A fuzzUser is one who logs in, and, of the first two, whom he may send as.
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

// A fuzzStand is a server between pipes and a next hop on loopback, which plays
// many programs one after the other.
type fuzzStand struct {
	server  *Server
	parts   Parts
	sockets map[string]*pipeListener
	hop     *relaytest.Hop
	relay   *owners
	log     *watchedLog
	tls     []*tls.Config
	scrams  map[string]*scram.Client
	mode    atomic.Int32 // what the hop does; see answer
	queued  atomic.Int64
	started sync.Once
	ceiling int // goroutines, without those of the hop's sessions
}

func newFuzzStand(t testing.TB) *fuzzStand {
	t.Helper()
	s := &fuzzStand{sockets: map[string]*pipeListener{}, log: &watchedLog{}, scrams: map[string]*scram.Client{}}
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

func (s *fuzzStand) router(t testing.TB) *relay.Router {
	t.Helper()
	cfg := relay.Defaults()
	cfg.Patience = 0 // it is not the relay that is tested
	cfg.NextHops = make([]relay.HopURL, 1)
	if err := cfg.NextHops[0].UnmarshalText([]byte(s.hop.URL())); err != nil {
		t.Fatal(err)
	}
	r, err := relay.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	r.Probe(context.Background())
	return r
}

func (s *fuzzStand) assemble(t testing.TB) Parts {
	t.Helper()
	cfg := Defaults()
	cfg.Hostname = "mail.example.org"
	cfg.MessageSizeLimit = 64 << 10
	cfg.Limits.Messages = 6
	cfg.ProxyTrusted = []netip.Prefix{netip.PrefixFrom(trustedProxyAddr.Addr(), 32)}
	p := Parts{
		Config: cfg, TLS: &tls.Config{Certificates: []tls.Certificate{cheapCertificate(t)}, CurvePreferences: []tls.CurveID{tls.X25519}},
		Auth: s.provider(t), AuthFailures: 3, Hop: s.relay,
		Stage:    message.NewStage(t.TempDir(), 1<<20),
		Log:      slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Sockets:  map[string][]net.Listener{},
		Policies: map[string]*policy.Set{},
	}
	for _, name := range fuzzListeners {
		l := NewListener()
		l.Name, l.Mode, l.RequireAuth = name, TLS, name != openListener
		if name == starttlsListener {
			l.Mode = STARTTLS
		}
		s.sockets[name] = newPipeListener()
		p.Listeners = append(p.Listeners, l)
		p.Sockets[name] = []net.Listener{s.sockets[name]}
		p.Policies[name] = fuzzPolicy(t, name)
	}
	return p
}

// fuzzPolicy wants recipients to have a domain with a dot, and those of people
// whom it does not know to be in relayDomain.
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
	set, err := policy.NewSet(cfg, net.DefaultResolver)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func cheapCertificate(t testing.TB) tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// fuzzStore keeps fuzzUsers, passwords and keys.
type fuzzStore map[string]auth.ScramKeys

// provider offers PLAIN, LOGIN and SCRAM; nobody is made to wait for having
// guessed.
func (s *fuzzStand) provider(t testing.TB) auth.Provider {
	t.Helper()
	cfg := auth.Defaults()
	cfg.PenaltyExempt = []auth.Network{auth.Network(netip.MustParsePrefix("0.0.0.0/0"))}
	store := fuzzStore{}
	for _, u := range fuzzUsers {
		client, err := scram.SHA256.NewClient(u.login, u.password, "")
		if err != nil {
			t.Fatal(err)
		}
		s.scrams[u.login+" "+u.password] = client
		if u.user == "" {
			continue
		}
		salt := []byte("salt of " + u.login)
		c, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: 4096})
		if err != nil {
			t.Fatal(err)
		}
		store[u.login] = auth.ScramKeys{
			ScramKeys: hash.ScramKeys{Salt: salt, Iterations: 4096, StoredKey: c.StoredKey, ServerKey: c.ServerKey},
			User:      u.user, Store: "users",
		}
	}
	return auth.Local{Passwords: store, Keys: store, Scram: auth.NewScram(auth.NewThrottle(cfg))}
}

func (s *fuzzStand) scram(u fuzzUser) *scram.ClientConversation {
	return s.scrams[u.login+" "+u.password].NewConversation()
}

func (fuzzStore) VerifyPassword(_ context.Context, _ *auth.Peer, login, password string) (auth.Identity, error) {
	if login == "down" {
		return auth.Identity{}, errors.New("dial unix /run/store: no such file")
	}
	i := slices.IndexFunc(fuzzUsers, func(u fuzzUser) bool { return u.login == login && u.password == password && u.user != "" })
	if i < 0 {
		return auth.Identity{}, &auth.Failure{Kind: auth.Unknowable, Store: "users"}
	}
	return auth.Identity{User: fuzzUsers[i].user, Store: "users"}, nil
}

func (f fuzzStore) ScramKeys(_ context.Context, login string) (auth.ScramKeys, error) {
	keys, ok := f[login]
	switch {
	case login == "down":
		return auth.ScramKeys{}, errors.New("dial unix /run/store: no such file")
	case !ok:
		return auth.ScramKeys{}, &auth.Failure{Kind: auth.NoSuchUser, Store: "users"}
	}
	return keys, nil
}

func (fuzzStore) ScramDecoy(login string) auth.ScramDecoy {
	return auth.ScramDecoy{Login: login, ScramShape: hash.ScramShape{Iterations: 4096, SaltLength: 13}}
}

// owners is the relay with rules about senders, and with a memory of what it was
// asked.
type owners struct {
	relay.NextHop

	mu    sync.Mutex
	asked []question          // RCPT
	sent  map[string]dispatch // by queue id
}

// A question is a recipient that got as far as the relay.
type question struct {
	envelope *relay.Envelope
	to       string
}

// A dispatch is a message that the relay has a receipt for.
type dispatch struct {
	envelope *relay.Envelope
	to       []string
}

var errNotOwner = &smtp.SMTPError{Code: 553, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "Not yours"}

func (o *owners) Begin(ctx context.Context, e *relay.Envelope) (relay.Transaction, error) {
	tx, err := o.NextHop.Begin(ctx, e)
	return &owned{Transaction: tx, owners: o, envelope: e}, err
}

// mayUse is the rule.
func mayUse(login, sender string) bool {
	for _, u := range fuzzUsers[:2] {
		if u.user == login {
			return slices.Contains(u.senders, sender)
		}
	}
	return login == "" && !strings.HasSuffix(sender, "@example.org")
}

type owned struct {
	relay.Transaction
	owners   *owners
	envelope *relay.Envelope
	to       []string
}

func (t *owned) Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error {
	t.owners.mu.Lock()
	t.owners.asked = append(t.owners.asked, question{t.envelope, to})
	t.owners.mu.Unlock()
	if !mayUse(t.envelope.Login, t.envelope.Sender) {
		return errNotOwner
	}
	err := t.Transaction.Rcpt(ctx, to, opts)
	if err == nil {
		t.to = append(t.to, to)
	}
	return err
}

func (t *owned) Send(ctx context.Context, m *message.Message) (relay.Receipt, error) {
	r, err := t.Transaction.Send(ctx, m)
	if err == nil {
		t.owners.mu.Lock()
		defer t.owners.mu.Unlock()
		if t.owners.sent == nil {
			t.owners.sent = map[string]dispatch{}
		}
		t.owners.sent[queuedAs(r.Text)] = dispatch{t.envelope, t.to}
	}
	return r, err
}

func (o *owners) take() ([]question, map[string]dispatch) {
	o.mu.Lock()
	defer o.mu.Unlock()
	asked, sent := o.asked, o.sent
	o.asked, o.sent = nil, nil
	return asked, sent
}

// queuedAs finds what answer has put into a reply.
func queuedAs(text string) string {
	_, id, _ := strings.Cut(text, "queued as ")
	id, _, _ = strings.Cut(id, " ")
	return strings.TrimSpace(id)
}

// answer is what the hop says: it knows some recipients, and obeys mode at the
// end of data.
func (s *fuzzStand) answer(c relaytest.Command) relaytest.Answer {
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
	yes := fmt.Sprintf("250 2.0.0 Ok: queued as F%d", s.queued.Add(1))
	switch s.mode.Load() {
	case 1:
		return relaytest.Say("550 5.7.1 250 2.0.0 Ok: queued as 0")
	case 2:
		return relaytest.Say("451 4.3.0 Later")
	case 3:
		return relaytest.HangUp()
	case 4:
		return relaytest.Say(yes + " \x1b[2J\u00e4 and more").AndHangUp()
	case 5:
		return relaytest.Say("421 4.3.2 Going down").AndHangUp()
	case 6:
		return relaytest.Raw("250 2.0.0 Ok: queu").AndHangUp()
	}
	return relaytest.Say(yes)
}

// A watchedLog looks at the lines of the log and keeps the bad ones, and who was
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

// clients are those who were connected since it was asked last.
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

func (s *fuzzStand) dial(listener string, version int) *pipeClient {
	p := s.sockets[listener].dial(netip.MustParseAddrPort("192.0.2.7:50000"))
	return &pipeClient{pipe: p, listener: listener, config: s.tls[version&1]}
}

// play plays a program and judges what has come of it: so many messages were sent.
func (s *fuzzStand) play(t *testing.T, program []byte) (messages int) {
	s.started.Do(func() { s.warmUp(t) })
	s.mode.Store(0)
	p := &fuzzPlay{t: t, stand: s, program: program}
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

// warmUp makes the goroutines that stay.
func (s *fuzzStand) warmUp(t *testing.T) {
	p := &fuzzPlay{t: t, stand: s, program: []byte{
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

// rest waits until nothing is left of a program.
func (s *fuzzStand) rest(t *testing.T) {
	t.Helper()
	if !kit.Soon(func() bool { return s.parts.Stage.InMemory() == 0 }) {
		t.Errorf("%d bytes of messages are left", s.parts.Stage.InMemory())
	}
	s.isEmpty(t)
	if !kit.Soon(func() bool { return runtime.NumGoroutine()-s.hop.Open() <= s.ceiling }) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		t.Errorf("%d goroutines instead of %d:\n%s", runtime.NumGoroutine()-s.hop.Open(), s.ceiling, stacks)
	}
	for _, line := range s.log.take() {
		t.Errorf("logged: %s", line)
	}
}

// isEmpty wants nobody to be counted who is gone.
func (s *fuzzStand) isEmpty(t *testing.T) {
	t.Helper()
	counts := func() (open, strangers, clients int) {
		for _, g := range []*gate{&s.server.gate, &s.server.unannounced} {
			g.mu.Lock()
			open, strangers, clients = open+g.open, strangers+g.strangers, clients+len(g.clients)
			g.mu.Unlock()
		}
		return open, strangers, clients
	}
	if !kit.Soon(func() bool { open, strangers, clients := counts(); return open+strangers+clients == 0 }) {
		open, strangers, clients := counts()
		t.Errorf("%d connections, %d strangers and %d clients are still counted", open, strangers, clients)
	}
}
