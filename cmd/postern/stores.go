package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

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
func (w *workshop) openStores(cfg *Config) (*openStores, error) {
	stores := new(openStores)
	for _, s := range cfg.Auth.Stores {
		backend, err := s.open(w)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("store %s: %w", s, explainUnreadable(err)), stores.Close())
		}
		spec := s.spec()
		spec.Kind, spec.Realm, spec.Backend, spec.Log = s.Kind, cfg.Auth.Realm, backend, w.log.Logger
		stores.Chain = append(stores.Chain, auth.NewStore(spec))
		w.warnOfMissingKeys(cfg.Auth, s, backend)
		if d, ok := backend.(*dovecot.Store); ok && cfg.Auth.Stores.dovecotAlone() {
			stores.alone = d
			return stores, nil
		}
	}
	if err := w.local(cfg.Auth, stores.Chain).Check(); err != nil {
		return nil, withStatus(exitConfig, errors.Join(err, stores.Close()))
	}
	return stores, nil
}

// warnOfMissingKeys logs the number of users that SCRAM locks out, if it is offered.
func (w *workshop) warnOfMissingKeys(cfg authConfig, s store, backend auth.PasswordVerifier) {
	if n := len(keyless(cfg, backend)); n > 0 {
		w.log.Warn("users without keys for SCRAM, which auth.mechanisms offers, cannot log in with clients that prefer it; "+
			"give them a new password with postern passwd --scheme scram-sha-256", "store", s.name(), "users", n)
	}
}

// keyless returns the users that SCRAM locks out, where it is offered and the store
// knows all of its users.
func keyless(cfg authConfig, backend auth.PasswordVerifier) []string {
	k, ok := backend.(interface{ WithoutScramKeys() []string })
	if !ok || !offersScram(cfg) {
		return nil
	}
	return k.WithoutScramKeys()
}

// costly returns the users whose SCRAM keys lock out the clients that use Cyrus
// SASL, where SCRAM is offered and the store knows all of its users.
func costly(cfg authConfig, backend auth.PasswordVerifier) []string {
	k, ok := backend.(interface{ WithTooManyIterations() []string })
	if !ok || !offersScram(cfg) {
		return nil
	}
	return k.WithTooManyIterations()
}

func offersScram(cfg authConfig) bool {
	return slices.ContainsFunc(cfg.Mechanisms, auth.MechanismName.NeedsKeys)
}

// scramTrouble is the users that cannot log in by SCRAM with every client.
type scramTrouble struct {
	keyless []string // have no keys
	costly  []string // have keys with more iterations than Cyrus SASL computes
}

// provider is what runs the mechanisms over the stores: Dovecot itself where it
// is the only one, and otherwise we.
func (w *workshop) provider(cfg authConfig, stores *openStores) auth.Provider {
	if stores.alone != nil {
		return w.proxy(cfg, stores.alone)
	}
	return w.local(cfg, stores.Chain)
}

func (w *workshop) proxy(cfg authConfig, d *dovecot.Store) dovecot.Proxy {
	return dovecot.Proxy{
		Store: d, Throttle: w.throttle, Options: cfg.SecurityOptions,
		Timeout: cfg.Stores[0].spec().Config.Timeout,
	}
}

func (w *workshop) local(cfg authConfig, stores auth.Chain) auth.Local {
	return auth.Local{
		Passwords: w.throttle.Guard(auth.Prepared(stores)),
		Keys:      stores.Keys(),
		Scram:     w.scram,
		Only:      cfg.Mechanisms,
		Security:  cfg.SecurityOptions,
	}
}

// checkStore opens a store, lets it check itself, if it can, within the time that
// it has for a login, and closes it.
func (w *workshop) checkStore(ctx context.Context, cfg authConfig, s store) (scramTrouble, error) {
	backend, err := s.open(w)
	if err != nil {
		return scramTrouble{}, explainUnreadable(err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.spec().Config.Timeout)
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
func (w *workshop) checkMechanisms(ctx context.Context, cfg *Config) ([]string, error) {
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

// A store is one table [[auth.stores]]: its kind, and what that kind takes.
type store struct {
	Kind string
	storeConfig
}

func newStore(kind string) store { return store{kind, storeKinds()[kind]()} }

// String is what the store is, for a person.
func (s store) String() string {
	text := s.Kind + " " + s.where()
	if name := s.name(); name != s.Kind {
		text = name + ": " + text
	}
	return text
}

// name is what the log calls it.
func (s store) name() string {
	if name := s.spec().Config.Name; name != "" {
		return name
	}
	return s.Kind
}

func (s store) Validate(bad func(key, why string)) {
	for key, part := range s.common() {
		part.Validate(func(k, why string) { bad(join(key, k), why) })
	}
	s.storeConfig.Validate(bad)
}

// A storeList is all of them. What a table may hold depends on its kind.
type storeList []store

// Validate reports what is wrong with each, and names that are not enough to
// tell two apart. key is relative to [auth].
func (l storeList) Validate(bad func(key, why string)) {
	seen := make(map[string]bool)
	for i, s := range l {
		at := fmt.Sprintf("stores[%d]", i)
		s.Validate(func(key, why string) { bad(join(at, key), why) })
		if seen[s.name()] {
			bad(at+".name", fmt.Sprintf("an earlier store is called %q, too; give one of them a name of its own", s.name()))
		}
		seen[s.name()] = true
	}
	if l.dovecotAlone() && l[0].spec().Config.Login != auth.StoreDefaults().Login {
		bad("stores[0].login", "has no place where Dovecot is the only store, which hears what the client sends; set auth_username_format in Dovecot's configuration")
	}
}

// dovecotAlone says that Dovecot runs the whole exchange, see workshop.provider.
func (l storeList) dovecotAlone() bool { return len(l) == 1 && l[0].Kind == dovecot.Kind }

func (l *storeList) decode(d *decoder, path string, p toml.Primitive) {
	tables, ok := d.asTables(path, p)
	if !ok {
		return
	}
	*l = nil
	for i, t := range tables {
		at := fmt.Sprintf("%s[%d]", path, i)
		if s, ok := d.store(at, t); ok {
			*l = append(*l, s)
		}
	}
}

func (d *decoder) store(path string, t table) (store, bool) {
	kinds := slices.Sorted(maps.Keys(storeKinds()))
	named, ok := t["kind"]
	if !ok {
		d.bad(path+".kind", "is missing", "write kind = "+quoteAll(kinds, " or "))
		return store{}, false
	}
	kind, _ := d.raw(named).(string)
	if !slices.Contains(kinds, kind) {
		d.bad(path+".kind", fmt.Sprintf("there is no kind of store %q", d.raw(named)), "write "+quoteAll(kinds, " or "))
		return store{}, false
	}
	s := newStore(kind)
	delete(t, "kind")
	d.table(path, t, reflect.ValueOf(s.storeConfig).Elem())
	return s, true
}

func (l *storeList) keys(path string) []string {
	all := []string{path + "[].kind"}
	for _, newConfig := range storeKinds() {
		for _, key := range keysOf(path+"[]", reflect.TypeOf(newConfig()).Elem()) {
			if !slices.Contains(all, key) {
				all = append(all, key)
			}
		}
	}
	return all
}

func quoteAll(words []string, between string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = `"` + w + `"`
	}
	return strings.Join(quoted, between)
}

// startPAM starts the helper for stores of kind "pam" that name no socket. It
// has to be root, so this comes before root is given up; where there is no root to
// give up, the store says what to do when it is opened.
func (w *workshop) startPAM(cfg *Config) error {
	services := cfg.Auth.Stores.pamServices()
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
