package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/server/auth"
	"postern/server/auth/dovecot"
	"postern/server/auth/throttle"
	"postern/server/auth/userfile"
)

// Stores are the open stores of one section [auth].
type Stores struct {
	auth.Chain
	dovecot *dovecot.Store // if it is the only one, and runs the whole exchange
}

// A storeKey is what has to be equal for sections to share a store.
type storeKey struct {
	table config.Store
	realm string
}

// An openStore is a store and what it asks.
type openStore struct {
	*auth.Store
	backend auth.Backend
}

// openStores opens the stores of all sections, each store once.
func (a *App) openStores(g *Generation) error {
	var all sectionParts[config.Auth, auth.Provider]
	var users sectionParts[config.Auth, string]
	var stores sectionParts[storeKey, openStore]
	for path, s := range g.cfg.AuthSections() {
		section, err := a.openSection(g, s, &stores)
		if err != nil {
			if name := g.cfg.ListenerOf(path); name != "" {
				err = fmt.Errorf("listener %q: %w", name, err)
			}
			return err
		}
		limit := a.throttle
		name := ""
		if !reflect.DeepEqual(s.Stores, g.cfg.Auth.Stores) || s.Realm != g.cfg.Auth.Realm {
			name = g.cfg.ListenerOf(path) // these are other users
			limit = limit.For(name)
		}
		users.add(s, name)
		all.add(s, a.provider(s, section, limit))
	}
	for _, l := range g.listeners {
		l.auth, _ = all.of(l.settings.Auth)
		l.users, _ = users.of(l.settings.Auth)
	}
	if p, ok := all.of(g.cfg.Auth); ok {
		g.fallback.auth = p
	}
	return nil
}

func (a *App) openSection(g *Generation, cfg config.Auth, open *sectionParts[storeKey, openStore]) (*Stores, error) {
	stores := new(Stores)
	for _, table := range cfg.Stores {
		key := storeKey{table, cfg.Realm}
		s, ok := open.of(key)
		if !ok {
			var err error
			if s, err = a.openStore(cfg, table); err != nil {
				return nil, fmt.Errorf("store %s: %w", table, err)
			}
			g.opened("stores", s.Store)
			open.add(key, s)
		}
		stores.Chain = append(stores.Chain, s.Store)
		a.warnOfMissingKeys(cfg, s.Store)
		if d, ok := s.backend.(*dovecot.Store); ok && cfg.Stores.DovecotOnly() {
			stores.dovecot = d
			return stores, nil
		}
	}
	if err := auth.NewLocal(stores.Chain, a.throttle, a.scram, cfg.Config).Check(); err != nil {
		return nil, process.WithStatus(process.ExitConfig, err)
	}
	return stores, nil
}

func (a *App) openStore(cfg config.Auth, table config.Store) (openStore, error) {
	backend, err := table.Backend.Open(a.storeEnv(table.Fold))
	if err != nil {
		return openStore{}, process.ExplainUnreadable(err)
	}
	s := auth.NewStore(auth.StoreSpec{
		Kind: table.Kind, Config: table.StoreConfig, Cache: table.Cache, Realm: cfg.Realm,
		Backend: backend, Events: a.events.auth,
	})
	return openStore{s, backend}, nil
}

// storeEnv returns what the backends share.
func (a *App) storeEnv(fold auth.Fold) *auth.Env {
	env := &auth.Env{Fold: fold, Checker: a.checker, Events: a.events.auth}
	if a.pamHelper == nil {
		return env
	}
	env.PAM = func(service string) (func(context.Context) (net.Conn, error), error) {
		if !slices.Contains(a.pamServices, service) {
			return nil, fmt.Errorf("the PAM helper does not serve %q, and only root can start another one; restart postern", service)
		}
		return a.pamHelper.Dial, nil
	}
	return env
}

// provider returns what runs the mechanisms over the stores: Dovecot itself if it is the
// only store.
func (a *App) provider(cfg config.Auth, stores *Stores, t *throttle.Throttle) auth.Provider {
	if stores.dovecot != nil {
		return proxy(cfg, stores, t)
	}
	return auth.NewLocal(stores.Chain, t, a.scram, cfg.Config)
}

// proxy counts guesses without the domain, since Dovecot may drop it (auth_username_format).
func proxy(cfg config.Auth, stores *Stores, t *throttle.Throttle) dovecot.Proxy {
	return dovecot.Proxy{Store: stores.dovecot, Throttle: t.Accounts(auth.LocalPart), Options: cfg.SecurityOptions, Calls: stores.Chain[0].Calls()}
}

// OpenStores opens the stores of one section for a command. The caller must close them.
func (a *App) OpenStores(cfg config.Auth) (*Stores, error) {
	g := &Generation{unwatch: func() {}} // collects what is open after an error
	stores, err := a.openSection(g, cfg, new(sectionParts[storeKey, openStore]))
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return stores, nil
}

// A StoreResult is what [App.CheckStore] finds in a store that can be opened.
type StoreResult struct {
	Scram   ScramUsers
	Remarks []auth.Remark
}

// CheckStore opens a store, calls its Check, if it has one, within the time for a login,
// and closes it. With offline it connects to nothing, and only files are checked. The error may
// join several, one for each cause.
func (a *App) CheckStore(ctx context.Context, cfg config.Auth, s config.Store, offline bool) (StoreResult, error) {
	open, err := a.openStore(cfg, s)
	if err != nil {
		return StoreResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	if !offline || s.Kind == userfile.Kind {
		err = open.Check(ctx)
	}
	result := StoreResult{scramUsers(cfg, open.Store), open.Remarks()}
	if closed := open.Close(); closed != nil {
		err = errors.Join(err, closed)
	}
	return result, err
}

// CheckMechanisms returns the mechanisms that clients are offered, or an error if they
// are not those of the configuration.
func (a *App) CheckMechanisms(ctx context.Context, cfg config.Auth) ([]string, error) {
	stores, err := a.OpenStores(cfg)
	if err != nil {
		return nil, err
	}
	defer stores.Close()
	if stores.dovecot != nil {
		return proxy(cfg, stores, a.throttle).Probe(ctx)
	}
	peer := &auth.Peer{TLS: &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true}}
	return auth.NewLocal(stores.Chain, a.throttle, a.scram, cfg.Config).Mechanisms(peer), nil
}

// ScramUsers are the users of a store that cannot log in by SCRAM with every client.
type ScramUsers struct {
	WithoutKeys []string
	Costly      []string // have keys with more iterations than Cyrus SASL computes
}

// scramUsers returns the users of a store that knows all of its users. Without SCRAM in
// auth.mechanisms there is no problem.
func scramUsers(cfg config.Auth, s *auth.Store) (users ScramUsers) {
	if slices.ContainsFunc(cfg.Mechanisms, auth.MechanismName.NeedsKeys) {
		users.WithoutKeys, users.Costly = s.LockedOutOfScram()
	}
	return users
}

func (a *App) warnOfMissingKeys(cfg config.Auth, s *auth.Store) {
	if n := len(scramUsers(cfg, s).WithoutKeys); n > 0 {
		a.log.Warn("users without keys for SCRAM, which auth.mechanisms offers, cannot log in with clients that prefer it; "+
			"give them a new password with postern passwd --scheme scram-sha-256", "store", s.Name(), "users", n)
	}
}
