package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"

	// The drivers of package sql register themselves when they are imported.
	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/server/auth"
	"postern/server/auth/dovecot"
)

// openStores are the stores of one configuration: in its order, and the one
// that runs whole exchanges itself, if it stands alone.
type openStores struct {
	auth.Chain
	alone *dovecot.Store
}

// openStores opens all stores of cfg. It fails if one of them cannot be used.
func (w *workshop) openStores(cfg *config.Config) (*openStores, error) {
	stores := new(openStores)
	for _, s := range cfg.Auth.Stores {
		backend, err := s.Backend.Open(w.storeEnv())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("store %s: %w", s, process.ExplainUnreadable(err)), stores.Close())
		}
		stores.Chain = append(stores.Chain, auth.NewStore(auth.StoreSpec{
			Kind: s.Kind, Config: s.StoreConfig, Cache: s.Cache, Realm: cfg.Auth.Realm,
			Backend: backend.(auth.PasswordVerifier), Events: auth.NewLog(w.log.Logger),
		}))
		w.warnOfMissingKeys(cfg.Auth, s, backend)
		if d, ok := backend.(*dovecot.Store); ok && cfg.Auth.Stores.DovecotOnly() {
			stores.alone = d
			return stores, nil
		}
	}
	if err := w.local(cfg.Auth, stores.Chain).Check(); err != nil {
		return nil, process.WithStatus(process.ExitConfig, errors.Join(err, stores.Close()))
	}
	return stores, nil
}

// warnOfMissingKeys logs the number of users that SCRAM locks out, if it is offered.
func (w *workshop) warnOfMissingKeys(cfg config.Auth, s config.Store, backend auth.Backend) {
	if n := len(keyless(cfg, backend)); n > 0 {
		w.log.Warn("users without keys for SCRAM, which auth.mechanisms offers, cannot log in with clients that prefer it; "+
			"give them a new password with postern passwd --scheme scram-sha-256", "store", s.LogName(), "users", n)
	}
}

// keyless returns the users that SCRAM locks out, where it is offered and the store
// knows all of its users.
func keyless(cfg config.Auth, backend auth.Backend) []string {
	k, ok := backend.(interface{ WithoutScramKeys() []string })
	if !ok || !offersScram(cfg) {
		return nil
	}
	return k.WithoutScramKeys()
}

// costly returns the users whose SCRAM keys lock out the clients that use Cyrus
// SASL, where SCRAM is offered and the store knows all of its users.
func costly(cfg config.Auth, backend auth.Backend) []string {
	k, ok := backend.(interface{ WithTooManyIterations() []string })
	if !ok || !offersScram(cfg) {
		return nil
	}
	return k.WithTooManyIterations()
}

func offersScram(cfg config.Auth) bool {
	return slices.ContainsFunc(cfg.Mechanisms, auth.MechanismName.NeedsKeys)
}

// scramTrouble is the users that cannot log in by SCRAM with every client.
type scramTrouble struct {
	keyless []string // have no keys
	costly  []string // have keys with more iterations than Cyrus SASL computes
}

// provider is what runs the mechanisms over the stores: Dovecot itself where it
// is the only one, and otherwise we.
func (w *workshop) provider(cfg config.Auth, stores *openStores) auth.Provider {
	if stores.alone != nil {
		return w.proxy(cfg, stores.alone)
	}
	return w.local(cfg, stores.Chain)
}

func (w *workshop) proxy(cfg config.Auth, d *dovecot.Store) dovecot.Proxy {
	return dovecot.Proxy{
		Store: d, Throttle: w.throttle, Options: cfg.SecurityOptions,
		Timeout: cfg.Stores[0].Timeout,
	}
}

func (w *workshop) local(cfg config.Auth, stores auth.Chain) auth.Local {
	return auth.Local{
		Passwords: auth.Throttled(w.throttle, auth.WithPRECIS(stores)),
		Keys:      stores.Keys(),
		Scram:     w.scram,
		Only:      cfg.Mechanisms,
		Security:  cfg.SecurityOptions,
	}
}

// checkStore opens a store, lets it check itself, if it can, within the time that
// it has for a login, and closes it.
func (w *workshop) checkStore(ctx context.Context, cfg config.Auth, s config.Store) (scramTrouble, error) {
	backend, err := s.Backend.Open(w.storeEnv())
	if err != nil {
		return scramTrouble{}, process.ExplainUnreadable(err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	if c, ok := backend.(interface{ Check(context.Context) error }); ok {
		err = c.Check(ctx)
	}
	if c, ok := backend.(io.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return scramTrouble{keyless(cfg, backend), costly(cfg, backend)}, err
}

// checkMechanisms returns what clients are offered, or an error if that is not
// what the configuration asks for.
func (w *workshop) checkMechanisms(ctx context.Context, cfg *config.Config) ([]string, error) {
	stores, err := w.openStores(cfg)
	if err != nil {
		return nil, err
	}
	defer stores.Close()
	if stores.alone != nil {
		return w.proxy(cfg.Auth, stores.alone).Probe(ctx)
	}
	peer := &auth.Peer{TLS: &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true}}
	return w.provider(cfg.Auth, stores).Mechanisms(peer), err
}

// startPAM starts the helper for stores of kind "pam" that name no socket. It
// has to be root, so this comes before root is given up; where there is no root to
// give up, the store says what to do when it is opened.
func (w *workshop) startPAM(cfg *config.Config) error {
	services := cfg.Auth.Stores.PAMServices()
	if len(services) == 0 || w.pamHelper != nil || os.Geteuid() != 0 {
		return nil
	}
	h, err := startPAMHelper(services, w.log)
	if err != nil {
		return err
	}
	w.pamHelper, w.pamServices = h, services
	return nil
}

// endPAM ends the helper, if there is one.
func (w *workshop) endPAM() {
	if w.pamHelper == nil {
		return
	}
	if err := w.pamHelper.Close(); err != nil {
		w.log.Log(context.Background(), slog.LevelWarn, "cannot end the PAM helper", "err", err)
	}
}

// silenceDrivers prevents the MySQL driver from writing to stderr. Package sql
// reports the same problems as errors.
func silenceDrivers() {
	_ = mysql.SetLogger(&mysql.NopLogger{}) // refuses nil only
}

// storeEnv returns what the backends share.
func (w *workshop) storeEnv() *auth.Env {
	env := &auth.Env{Checker: w.checker, Events: auth.NewLog(w.log.Logger)}
	if w.pamHelper != nil {
		env.PAM = w.dialPAM
	}
	return env
}

// dialPAM returns the function that connects to the PAM helper for a service.
func (w *workshop) dialPAM(service string) (func(context.Context) (net.Conn, error), error) {
	if !slices.Contains(w.pamServices, service) {
		return nil, fmt.Errorf("the PAM helper does not serve %q, and only root can start another one: restart postern", service)
	}
	return w.pamHelper.Dial, nil
}
