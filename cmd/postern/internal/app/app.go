// Package app builds the parts of the server from a configuration, replaces them at a
// reload, and runs the server.
//
//	daemon      the server process: start, reload, shutdown
//	app         what outlives a reload
//	generation  what one reading of the configuration opens; the order of the parts
//	stores      user stores, and the mechanisms over them
//	state       what outlives a restart
//	files       the permissions of files
//
// A [Generation] is immutable. Certificates, limits and policy belong to a connection:
// they are those of the generation in which it was accepted. Stores and next hops are
// acquired from the newest generation for each login and each message, so a user who
// was removed from a store cannot log in any more, on an open connection either.
//
// State of the process is in no generation: penalties and known logins (throttle), the
// cache of verified passwords, the SCRAM secret, the keys of TLS session tickets, the
// account of memory for messages, the receipts of messages whose 250 may be lost, and the
// spool.
package app

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync"

	"postern/certs"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/logging"
	"postern/cmd/postern/internal/process"
	"postern/internal/fileperm"
	"postern/relay"
	"postern/relay/dedup"
	"postern/relay/sign"
	"postern/relay/spool"
	"postern/server"
	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/server/auth/pam"
	"postern/server/auth/throttle"
)

// An App is the state of the process, and the newest generation. [App.Build] and
// [App.Activate] are called by one goroutine.
type App struct {
	log      *logging.Log
	events   events
	throttle *throttle.Throttle
	checker  *hash.Checker
	scram    *auth.Scram
	receipts *dedup.Receipts
	tls      map[string]*certs.Shared // "" is the shared section; else by listener name
	spool    *spool.Spool             // nil: there is none
	state    *state                   // nil: nothing is kept over a restart

	current refCounted[*Generation]
	newest  *Generation // the one in current; nil before the first

	pamHelper   *pam.Started // nil: none was started
	pamServices []string     // of the helper
}

// events receive what the parts report, and write the log. Metrics would wrap them.
type events struct {
	server server.Events
	auth   auth.Events
	certs  certs.Events
	relay  relay.Events
	dedup  dedup.Events
	sign   sign.Events
	spool  spool.Events
}

func newEvents(l *slog.Logger) events {
	return events{
		server: server.NewLog(l),
		auth:   auth.NewLog(l),
		certs:  certs.NewLog(l),
		relay:  relay.NewLog(l),
		dedup:  dedup.NewLog(l),
		sign:   sign.NewLog(l),
		spool:  spool.NewLog(l),
	}
}

// New returns an App without a generation.
func New(cfg *config.Config, log *logging.Log) *App {

	all := newEvents(log.Logger)
	slow := throttle.New(cfg.Auth.Throttle())
	return &App{
		log:      log,
		events:   all,
		throttle: slow,
		checker:  hash.NewChecker(cfg.Auth.HashWait),
		scram:    auth.NewScram(slow, nil),
		receipts: dedup.NewReceipts(all.dedup),
		tls:      make(map[string]*certs.Shared),
	}
}

// Activate makes g the newest generation and returns the parts for the server. The
// generation before is closed when its last user has released it.
func (a *App) Activate(g *Generation) server.Parts {
	a.throttle.Configure(g.cfg.Auth.Throttle())
	a.checker.SetWait(g.cfg.Auth.HashWait)
	a.log.SetLevel(g.cfg.Log.Level)
	for _, l := range g.listeners {
		if shared := a.tls[l.tlsKey]; shared != nil {
			shared.Set(l.settings.TLS, l.certs)
		} else {
			a.tls[l.tlsKey] = certs.NewShared(l.settings.TLS, l.certs)
		}
	}
	a.current.Replace(g, func() { g.close(a.logClose) })
	a.configureSpool(g)
	g.watch()
	if a.newest != nil {
		a.newest.unwatch()
	}
	a.newest = g
	g.stage.SetLimits(stageLimits(&g.cfg.Server, g.stageAuto))
	p := server.Parts{Config: g.cfg.Server, Stage: g.stage, Events: a.events.server}
	for _, l := range g.listeners {
		p.Listeners = append(p.Listeners, server.ListenerParts{
			Listener:     l.settings.Listener,
			TLS:          a.tls[l.tlsKey].Config(),
			AuthFailures: l.settings.Auth.FailuresPerConnection,
			Policy:       g.policies.Set(l.settings),
			Users:        l.users,
			Unused:       func() { a.logClose("the policy", g.policies.release(l.settings)) },
			Services: func() (server.Services, func()) {
				newest, release := a.current.Acquire()
				return newest.services(l), release
			},
		})
	}
	return p
}

// Close closes the newest generation, the spool and the PAM helper. The server has been
// shut down.
func (a *App) Close() {
	a.receipts.Close()
	if a.spool != nil {
		a.logClose("the spool", a.spool.Close()) // deliveries have a few seconds to finish
	}
	if a.newest != nil {
		a.newest.unwatch()
		a.current.Retire()
	}
	a.state.close()
	if a.pamHelper != nil {
		if err := a.pamHelper.Close(); err != nil {
			a.log.Warn("cannot end the PAM helper", "err", err)
		}
	}
}

func (a *App) logClose(what string, err error) {
	if err != nil {
		a.log.Warn("cannot close "+what, "err", err)
	}
}

// openSpool opens the spool at start. A reload keeps it: its folder is locked, and
// deliveries are in progress.
func (a *App) openSpool(cfg *config.Config) (err error) {
	if a.newest != nil || cfg.Relay.Dir == "" {
		return nil
	}
	if err := fileperm.Check(cfg.Relay.Dir, fileperm.Public); err != nil {
		return fmt.Errorf("relay.spool: %w", err)
	}
	hostname, _ := cfg.Server.Names()
	a.spool, err = spool.Open(cfg.Relay.Spool.Config, spool.Options{
		Sizes:    spoolSizes(cfg),
		Hostname: hostname,
		Origin:   cfg.Server.Origin,
		Events:   a.events.spool,
		HopsOf: func(listener string) string {
			g, release := a.current.Acquire()
			defer release()
			if g.parts(listener).ownRelay {
				return listener
			}
			return "" // the shared ones
		},
	})
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; create the folder for %s: install -d -m 0700 -o %[2]s %s",
			err, process.CurrentAccount().Name, cfg.Relay.Dir)
	}
	return err
}

func spoolSizes(cfg *config.Config) spool.Sizes {
	return spool.Sizes{
		Total: int64(cfg.Relay.SpoolSize), PerUser: int64(cfg.Relay.SpoolSizePerUser), Message: int64(cfg.Server.MessageSizeLimit),
	}
}

// configureSpool starts the deliveries with the first generation, and applies the limits
// of each further one. Each delivery acquires the newest generation.
func (a *App) configureSpool(g *Generation) {
	hop := func(of func(*listenerParts) relay.NextHop) spool.Acquire {
		return func(listener string) (relay.NextHop, func()) {
			g, release := a.current.Acquire()
			return of(g.parts(listener)), release
		}
	}
	switch {
	case a.spool == nil:
	case a.newest == nil:
		a.spool.Deliver(
			hop(func(l *listenerParts) relay.NextHop { return l.route }),
			hop(func(l *listenerParts) relay.NextHop { return l.reports }))
	default:
		a.spool.Configure(g.cfg.Relay.Spool.Config, spoolSizes(g.cfg))
	}
}

// StartPAM starts the helper for stores of kind "pam" that name no socket. The helper
// has to be root, so it is started before root is dropped. If the process is not root,
// the store reports what to do when it is opened.
func (a *App) StartPAM(cfg *config.Config) error {
	var services []string
	for _, s := range cfg.AuthSections() {
		services = append(services, s.Stores.PAMServices()...)
	}
	slices.Sort(services)
	services = slices.Compact(services)
	if len(services) == 0 || a.pamHelper != nil || os.Geteuid() != 0 {
		return nil
	}
	// The running program, even if a newer one has been installed under its name.
	cmd := exec.Command("/proc/self/exe", "pam-helper", "--inherited")
	for _, s := range services {
		cmd.Args = append(cmd.Args, "--service", s)
	}
	cmd.Stderr = os.Stderr
	h, err := pam.StartHelper(cmd, a.events.auth)
	if err != nil {
		return err
	}
	a.pamHelper, a.pamServices = h, services
	return nil
}

// A refCounted holds the newest of several values, and closes each older one when its
// last user has released it. So a reload replaces a value at once and interrupts none
// of its users. Its methods may be called by many goroutines at once.
type refCounted[T any] struct {
	mu     sync.Mutex
	newest *counted[T]
}

// A counted is one value and the number of its users.
type counted[T any] struct {
	value   T
	close   func()
	users   int
	retired bool // to be closed when there are no users
}

// Replace makes value the newest one and retires the one before. close is called once,
// when value is retired and has no users.
func (r *refCounted[T]) Replace(value T, close func()) {
	r.mu.Lock()
	before := r.newest
	r.newest = &counted[T]{value: value, close: sync.OnceFunc(close)}
	r.mu.Unlock()
	r.retire(before)
}

// Acquire returns the newest value. The caller must call release at the end of its use;
// further calls have no effect. After Retire, the value may be closed already.
func (r *refCounted[T]) Acquire() (value T, release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.newest
	c.users++
	return c.value, sync.OnceFunc(func() {
		r.mu.Lock()
		c.users--
		unused := c.retired && c.users == 0
		r.mu.Unlock()
		if unused {
			c.close()
		}
	})
}

// Retire closes the newest value as soon as it has no users.
func (r *refCounted[T]) Retire() {
	r.mu.Lock()
	last := r.newest
	r.mu.Unlock()
	r.retire(last)
}

func (r *refCounted[T]) retire(c *counted[T]) {
	if c == nil {
		return
	}
	r.mu.Lock()
	c.retired = true
	unused := c.users == 0
	r.mu.Unlock()
	if unused {
		c.close()
	}
}
