package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"sync"
	"time"

	"postern/certs"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/policy"
	"postern/relay"
	"postern/relay/message"
	"postern/relay/sign"
	"postern/server"
	"postern/server/auth"
)

// A Generation holds all parts that were opened for one reading of the configuration. It is
// immutable, and closed when its last user has released it.
type Generation struct {
	cfg       *config.Config
	listeners []*listenerParts
	fallback  *listenerParts // for listeners that are no longer in the configuration
	policies  *Policies
	stage     *message.Stage
	stageAuto int64 // server.stage_disk where the configuration leaves it to the server
	certs     []*certs.Files
	closers   []func() (what string, err error) // in the order in which the parts were opened

	watching context.Context // until unwatch
	unwatch  context.CancelFunc
}

// listenerParts are the parts that the clients of one listener use. Listeners whose
// sections are equal share them.
type listenerParts struct {
	settings *config.Listener
	tlsKey   string // of App.tls
	certs    *certs.Files
	auth     auth.Provider
	users    string        // names the users of auth; "" are those of the shared section
	hop      relay.NextHop // for messages of clients
	route    relay.NextHop // for messages in the spool
	reports  relay.NextHop // for reports of the spool
	ownAuth  bool          // the section differs from the shared one
	ownRelay bool
}

// services returns the services for the clients of listener l, which may belong to an
// earlier generation. If the listener has been removed since, its clients keep using the
// shared sections that it used. In place of its own sections, which are gone, they get
// temporary refusals: they must not log in with stores, or send to hops, that the listener
// never had.
func (g *Generation) services(l *listenerParts) server.Services {
	now := g.parts(l.settings.Name)
	s := server.Services{Auth: now.auth, Hop: now.hop}
	if now == g.fallback && l.ownAuth {
		s.Auth = unconfigured{}
	}
	if now == g.fallback && l.ownRelay {
		s.Hop = unconfigured{}
	}
	return s
}

// parts returns the parts of a listener. The spool may have messages of a listener that a
// reload has removed: they use the shared sections.
func (g *Generation) parts(listener string) *listenerParts {
	for _, l := range g.listeners {
		if l.settings.Name == listener {
			return l
		}
	}
	return g.fallback
}

// Build opens all parts in the order in which a message meets them. The new generation has
// no effect before Activate, so after an error the old one is still in use. The caller must
// Activate or Close the generation.
func (a *App) Build(cfg *config.Config) (_ *Generation, err error) {
	g := &Generation{cfg: cfg, fallback: &listenerParts{
		auth: unconfigured{}, hop: unconfigured{}, route: unconfigured{}, reports: unconfigured{},
	}}
	g.watching, g.unwatch = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			_ = g.Close() // err is the reason to report
			err = asConfigError(err)
		}
	}()
	for i := range cfg.Listeners {
		l := &cfg.Listeners[i]
		g.listeners = append(g.listeners, &listenerParts{
			settings: l,
			ownAuth:  !reflect.DeepEqual(l.Auth, cfg.Auth),
			ownRelay: !reflect.DeepEqual(l.Relay, cfg.Relay),
		})
	}
	if err := a.openCertificates(g); err != nil { // STARTTLS
		return nil, err
	}
	if err := a.openState(cfg); err != nil {
		return nil, err
	}
	if err := a.openStores(g); err != nil { // AUTH
		return nil, err
	}
	if g.policies, err = OpenPolicies(cfg); err != nil { // MAIL, RCPT
		return nil, err
	}
	if err := a.openStage(g); err != nil { // DATA
		return nil, err
	}
	if err := a.openSpool(cfg); err != nil {
		return nil, err
	}
	if err := a.openHops(g); err != nil { // the end of data
		return nil, err
	}
	return g, nil
}

// opened records a part that close closes. what names it in the log.
func (g *Generation) opened(what string, part io.Closer) {
	g.closers = append(g.closers, func() (string, error) { return what, part.Close() })
}

// Close closes a generation that has not been activated.
func (g *Generation) Close() error {
	var all []error
	if g.policies != nil {
		all = append(all, g.policies.Close())
	}
	g.close(func(_ string, err error) { all = append(all, err) })
	return errors.Join(all...)
}

// close closes all parts, in reverse order of opening, except the policies, which
// connections use until they end.
func (g *Generation) close(report func(what string, err error)) {
	g.unwatch()
	for _, c := range slices.Backward(g.closers) {
		report(c())
	}
}

// watch reads certificates again when their files change, until unwatch.
func (g *Generation) watch() {
	for _, files := range g.certs {
		go files.Watch(g.watching)
	}
}

// A sectionParts list maps sections of the configuration to the parts opened from them.
type sectionParts[C, T any] []struct {
	section C
	part    T
}

func (o *sectionParts[C, T]) add(section C, part T) {
	*o = append(*o, struct {
		section C
		part    T
	}{section, part})
}

func (o sectionParts[C, T]) of(section C) (part T, ok bool) {
	for _, e := range o {
		if reflect.DeepEqual(e.section, section) {
			return e.part, true
		}
	}
	return part, false
}

func (a *App) openCertificates(g *Generation) error {
	var all sectionParts[certs.Config, *certs.Files]
	for _, s := range g.cfg.TLSSections() {
		files, err := certs.OpenFiles(s, a.events.certs, process.ExplainUnreadable)
		if err != nil {
			return err
		}
		g.certs = append(g.certs, files)
		all.add(s, files)
	}
	for _, l := range g.listeners {
		l.certs, _ = all.of(l.settings.TLS)
		if !reflect.DeepEqual(l.settings.TLS, g.cfg.TLS) {
			l.tlsKey = l.settings.Name
		}
	}
	return nil
}

// Policies are the restrictions of the listeners. A connection uses those of the generation
// in which it began, until it ends.
type Policies struct {
	sets sectionParts[policy.Config, *policy.Set]

	mu    sync.Mutex
	users map[*policy.Set]int // listeners
}

// OpenPolicies builds the restrictions of all listeners. Listeners with equal sections
// share them, so that a lookup table is read once. It returns an error if a listener
// would be an open relay.
func OpenPolicies(cfg *config.Config) (*Policies, error) {
	p := &Policies{users: make(map[*policy.Set]int)}
	for i := range cfg.Listeners {
		l := &cfg.Listeners[i]
		set, shared := p.sets.of(l.Policy)
		var err error
		if !shared {
			if set, err = policy.NewSet(l.Policy, &policy.Env{Resolver: net.DefaultResolver}); err == nil {
				p.sets.add(l.Policy, set)
			}
		}
		if err == nil && !l.RequireAuth {
			err = set.OpenRelay()
		}
		if err != nil {
			err = fmt.Errorf("listener %q: %w", l.Name, process.ExplainUnreadable(err))
			return nil, process.WithStatus(process.ExitConfig, errors.Join(err, p.Close()))
		}
		p.users[set]++
	}
	return p, nil
}

// Set returns the restrictions of a listener.
func (p *Policies) Set(l *config.Listener) *policy.Set {
	set, _ := p.sets.of(l.Policy)
	return set
}

// release closes the restrictions of a listener if no other listener uses them.
func (p *Policies) release(l *config.Listener) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.Set(l)
	if p.users[set]--; p.users[set] > 0 {
		return nil
	}
	return set.Close()
}

// Close closes all restrictions. No connection uses them any more.
func (p *Policies) Close() error {
	var all []error
	for _, s := range p.sets {
		all = append(all, s.part.Close())
	}
	return errors.Join(all...)
}

// hops are the parts opened from one section [relay].
type hops struct {
	router         *relay.Router
	chain, reports *relay.Chain
}

// openHops opens the way to the next hops of each section: the decorators in the order
// in which a message meets them, and the router with its pools at the end. Messages in
// the spool are signed already. Reports of the spool are signed, and not spooled again.
func (a *App) openHops(g *Generation) error {
	var suppress relay.Decorator // nil: duplicates are not suppressed
	if g.cfg.Server.SuppressDuplicates {
		suppress = a.receipts.Before
	}
	var all sectionParts[config.Relay, hops]
	for _, s := range g.cfg.RelaySections() {
		signer, err := sign.New(s.DKIM, a.events.sign)
		if err != nil {
			return process.ExplainUnreadable(err)
		}
		router, err := relay.New(s.Config, a.events.relay)
		if err != nil {
			return process.ExplainUnreadable(err)
		}
		h := hops{
			router:  router,
			chain:   relay.NewChain(router, suppress, signer.Before, a.spool.Before),
			reports: relay.NewChain(router, signer.Before),
		}
		g.opened("next hops", h.chain)
		all.add(s, h)
	}
	var probes sync.WaitGroup
	for _, h := range all {
		probes.Go(func() { probe(h.part.router) })
	}
	probes.Wait()
	for _, l := range g.listeners {
		h, _ := all.of(l.settings.Relay)
		l.hop, l.route, l.reports = h.chain, h.router, h.reports
	}
	if h, ok := all.of(g.cfg.Relay); ok {
		g.fallback.hop, g.fallback.route, g.fallback.reports = h.chain, h.router, h.reports
	}
	return nil
}

// probeTime bounds the wait for next hops that do not reply.
const probeTime = 2 * time.Second

// probe asks the hops for their extensions, so that the EHLO reply has DSN and SMTPUTF8
// from the first client on. A hop that is down does not prevent the start, because the
// machine may be booting.
func probe(router *relay.Router) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	router.Probe(ctx)
}

// unconfigured refuses logins and messages temporarily. It serves a listener that was
// removed from the configuration, and keeps its sockets until the server restarts.
type unconfigured struct{}

var errUnconfigured = errors.New("the listener was removed from the configuration; restart postern to close it")

// Mechanisms returns PLAIN, so that clients try AUTH and get 454. Without it, they would
// send MAIL and get 530, a permanent error.
func (unconfigured) Mechanisms(*auth.Peer) []string { return []string{"PLAIN"} }

func (unconfigured) Start(context.Context, *auth.Peer, string) (auth.Exchange, error) {
	return nil, errUnconfigured
}

func (unconfigured) Caps() relay.Caps { return relay.Caps{} }

func (unconfigured) Begin(context.Context, *relay.Envelope) (relay.Transaction, error) {
	return nil, errUnconfigured
}
