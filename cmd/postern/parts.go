package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"postern/certs"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/logging"
	"postern/cmd/postern/internal/process"
	"postern/policy"
	"postern/relay"
	"postern/relay/message"
	"postern/relay/sign"
	"postern/relay/spool"
	"postern/server"
	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/server/auth/pam"
	"postern/server/auth/throttle"
)

// A workshop builds the parts of the server, and keeps what must outlive a
// reload of the configuration: who has logged in before and who has guessed
// (throttle), which passwords were right (checker), the keys of TLS session
// tickets (tls), the account of staged messages (stage), and the spool, which
// nobody else may open meanwhile.
type workshop struct {
	log      *logging.Log
	events   server.Events
	throttle *throttle.Throttle
	checker  *hash.Checker
	scram    *auth.Scram
	tls      *certs.Shared
	stage    *message.Stage
	logins   currentProvider
	hop      currentHop
	route    currentHop   // its far end, behind the decorators
	reports  currentHop   // the way of what the spool itself writes
	spool    *spool.Spool // nil: there is none
	now      *generation

	pamHelper   *pam.Started // nil: none has been started
	pamServices []string     // that it serves
}

// A generation is what one reading of the configuration has built.
type generation struct {
	cfg      *config.Config
	certs    *certs.Files
	stores   *openStores
	policies map[string]*policy.Set
	stage    *message.Stage
	hop      relay.NextHop
	reports  relay.NextHop
	router   *relay.Router

	watching context.Context // until unwatch
	unwatch  context.CancelFunc
}

func newWorkshop(cfg *config.Config, log *logging.Log) *workshop {
	silenceDrivers()
	slow := throttle.New(cfg.Auth.Throttle())
	return &workshop{
		log:      log,
		events:   server.NewLog(log.Logger),
		throttle: slow,
		checker:  hash.NewChecker(cfg.Auth.HashWait),
		scram:    auth.NewScram(slow),
	}
}

// build makes all parts in the order in which a message meets them. Nothing is
// in force before adopt, so a mistake in the last of them leaves the old ones
// as they were.
func (w *workshop) build(cfg *config.Config) (_ *generation, err error) {
	g := &generation{cfg: cfg}
	g.watching, g.unwatch = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			g.discard()
		}
	}()
	if g.certs, err = certs.OpenFiles(cfg.TLS, certs.NewLog(w.log.Logger), process.ExplainUnreadable); err != nil { // STARTTLS
		return nil, err
	}
	if g.stores, err = w.openStores(cfg); err != nil { // AUTH
		return nil, err
	}
	if g.policies, err = newPolicies(cfg); err != nil { // MAIL, RCPT
		return nil, err
	}
	if g.stage, err = w.stageFor(cfg); err != nil { // DATA
		return nil, err
	}
	if err = w.openSpool(cfg); err != nil {
		return nil, err
	}
	if err = w.openHops(g); err != nil { // end of data
		return nil, err
	}
	return g, nil
}

// adopt puts a generation in force and returns it as the server takes it.
// What the generation before has open is closed when nobody uses it any more.
func (w *workshop) adopt(g *generation) server.Parts {
	w.throttle.Configure(g.cfg.Auth.Throttle())
	w.checker.SetWait(g.cfg.Auth.HashWait)
	w.log.SetLevel(g.cfg.Log.Level)
	w.stage = g.stage
	if w.tls == nil {
		w.tls = certs.NewShared(g.cfg.TLS, g.certs)
	} else {
		w.tls.Set(g.cfg.TLS, g.certs)
	}
	w.logins.set(w.provider(g.cfg.Auth, g.stores), func() { w.closed("stores", g.stores.Close()) })
	w.route.set(g.router, func() { w.closed("next hops", g.router.Close()) })
	w.hop.set(g.hop, func() {}) // there is nothing to close but the router
	w.reports.set(g.reports, func() {})
	w.tendSpool(g.cfg)
	go g.certs.Watch(g.watching)
	if w.now != nil {
		w.now.unwatch()
	}
	w.now = g
	return w.parts()
}

// parts are those of the generation in force.
func (w *workshop) parts() server.Parts {
	p := server.Parts{Config: w.now.cfg.Server, Stage: w.now.stage, Events: w.events}
	for _, l := range w.now.cfg.Listeners {
		p.Listeners = append(p.Listeners, server.ListenerParts{
			Listener:     l,
			TLS:          w.tls.Config(),
			AuthFailures: w.now.cfg.Auth.FailuresPerConnection,
			Policy:       w.now.policies[l.Name],
			Services: func() (server.Services, func()) { // logins and hop do the counting
				return server.Services{Auth: &w.logins, Hop: &w.hop}, func() {}
			},
		})
	}
	return p
}

// close ends the generation in force; the server has been shut down.
func (w *workshop) close() {
	defer w.endPAM()
	w.closeSpool()
	if w.now == nil {
		return
	}
	w.now.unwatch()
	w.hop.finish()
	w.route.finish()
	w.logins.finish()
}

func (w *workshop) closed(what string, err error) {
	if err != nil {
		w.log.Warn("cannot close "+what, "err", err)
	}
}

// discard gives up a generation that never came into force.
func (g *generation) discard() {
	g.unwatch()
	if g.stores != nil {
		_ = g.stores.Close() // the error that led here is the one to report
	}
	if g.router != nil {
		_ = g.router.Close()
	}
}

// stageFor keeps the stage, and with it the account of memory in use, unless
// the configuration asks for another one.
func (w *workshop) stageFor(cfg *config.Config) (*message.Stage, error) {
	dir, memory := cfg.Server.StageDir, cfg.Server.StageMemory
	if w.now != nil && w.now.cfg.Server.StageDir == dir && w.now.cfg.Server.StageMemory == memory {
		return w.stage, nil
	}
	if err := checkStageDir(dir); err != nil {
		return nil, err
	}
	return message.NewStage(dir, int64(memory)), nil
}

// checkStageDir tries to write where large messages will be kept. It reports
// at start what would be a 451 for the first large message.
func checkStageDir(dir string) error {
	f, err := os.CreateTemp(dir, "postern-check-*")
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("server.stage_dir: large messages cannot be kept: %w; name a folder that %s may write to",
			err, process.CurrentAccount().Name)
	}
	if err != nil {
		return fmt.Errorf("server.stage_dir: large messages cannot be kept: %w", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// newPolicies builds the lists of every listener, and refuses an open relay.
func newPolicies(cfg *config.Config) (map[string]*policy.Set, error) {
	sets := make(map[string]*policy.Set)
	for i := range cfg.Listeners {
		l := &cfg.Listeners[i]
		set, err := policy.NewSet(policyOf(cfg, l), &policy.Env{Resolver: net.DefaultResolver})
		if err == nil && !l.RequireAuth {
			err = set.OpenRelay()
		}
		if err != nil {
			return nil, process.WithStatus(process.ExitConfig, fmt.Errorf("listener %q: %w", l.Name, process.ExplainUnreadable(err)))
		}
		sets[l.Name] = set
	}
	return sets, nil
}

// policyOf is the listener's own policy over that of all.
func policyOf(cfg *config.Config, l *server.Listener) policy.Config {
	if l.Policy == nil {
		return cfg.Policy
	}
	return l.Policy.Over(cfg.Policy)
}

// openHops builds the chain to Postfix: the signer, the spool, and the router with its
// pools. The decorators hold w.route, which leads to the newest router. Reports of the
// spool are signed, but not spooled a second time.
func (w *workshop) openHops(g *generation) error {
	router, err := relay.New(g.cfg.Relay.Config, relay.NewLog(w.log.Logger))
	if err != nil {
		return process.ExplainUnreadable(err)
	}
	probe(router)
	g.router = router
	signer, err := sign.New(g.cfg.Relay.DKIM, sign.NewLog(w.log.Logger))
	if err != nil {
		return process.ExplainUnreadable(err)
	}
	g.hop = relay.NewChain(&w.route, signer.Before, w.spool.Before)
	g.reports = relay.NewChain(&w.route, signer.Before)
	return nil
}

// probeTime is how long to wait for next hops that do not answer at all.
const probeTime = 2 * time.Second

// probe asks the hops what they can do, so that the first client is offered DSN
// and SMTPUTF8 already. A hop that is down is no reason not to start: it may
// be the machine booting.
func probe(router *relay.Router) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	router.Probe(ctx)
}
