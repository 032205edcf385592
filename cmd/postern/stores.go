package main

import (
	"cmp"
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
		backend, err := s.Backend.Open(w.storeEnv())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("store %s: %w", s, explainUnreadable(err)), stores.Close())
		}
		stores.Chain = append(stores.Chain, auth.NewStore(auth.StoreSpec{
			Kind: s.Kind, Config: s.StoreConfig, Cache: s.Cache, Realm: cfg.Auth.Realm,
			Backend: backend.(auth.PasswordVerifier), Events: auth.NewLog(w.log.Logger),
		}))
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
func (w *workshop) warnOfMissingKeys(cfg authConfig, s store, backend auth.Backend) {
	if n := len(keyless(cfg, backend)); n > 0 {
		w.log.Warn("users without keys for SCRAM, which auth.mechanisms offers, cannot log in with clients that prefer it; "+
			"give them a new password with postern passwd --scheme scram-sha-256", "store", s.name(), "users", n)
	}
}

// keyless returns the users that SCRAM locks out, where it is offered and the store
// knows all of its users.
func keyless(cfg authConfig, backend auth.Backend) []string {
	k, ok := backend.(interface{ WithoutScramKeys() []string })
	if !ok || !offersScram(cfg) {
		return nil
	}
	return k.WithoutScramKeys()
}

// costly returns the users whose SCRAM keys lock out the clients that use Cyrus
// SASL, where SCRAM is offered and the store knows all of its users.
func costly(cfg authConfig, backend auth.Backend) []string {
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
		Timeout: cfg.Stores[0].Timeout,
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
	backend, err := s.Backend.Open(w.storeEnv())
	if err != nil {
		return scramTrouble{}, explainUnreadable(err)
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

// A store is one table [[auth.stores]].
type store struct {
	Kind string
	auth.StoreConfig
	Cache   auth.CacheConfig // its zero value for kinds without a cache
	Backend auth.BackendConfig
	cached  bool // whether the table may have a section cache
}

// newStore returns a table of a kind that storeKinds has, with the default values.
func newStore(kind string) store {
	kinds := storeKinds()
	k := kinds[slices.IndexFunc(kinds, func(k storeKind) bool { return k.name == kind })]
	s := store{Kind: k.name, StoreConfig: auth.StoreDefaults(), Backend: k.config(), cached: k.cached}
	s.Concurrency = cmp.Or(k.concurrency, s.Concurrency)
	return s
}

// fields returns the keys that the table may have, and where their values go.
func (s *store) fields() map[string]reflect.Value {
	fields := fieldsOf(reflect.ValueOf(&s.StoreConfig).Elem())
	maps.Copy(fields, fieldsOf(reflect.ValueOf(s.Backend).Elem()))
	if s.cached {
		fields["cache"] = reflect.ValueOf(&s.Cache).Elem()
	}
	return fields
}

// String is what the store is, for a person.
func (s store) String() string {
	text := s.Kind + " " + s.Backend.Location()
	if name := s.name(); name != s.Kind {
		text = name + ": " + text
	}
	return text
}

// name is what the log calls it.
func (s store) name() string {
	return cmp.Or(s.Name, s.Kind)
}

func (s store) Validate(bad func(key, why string)) {
	s.StoreConfig.Validate(bad)
	if s.cached {
		s.Cache.Validate(func(key, why string) { bad(join("cache", key), why) })
	}
	s.Backend.Validate(bad)
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
	if l.dovecotAlone() && l[0].Login != auth.StoreDefaults().Login {
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
	var kinds []string
	for _, k := range storeKinds() {
		kinds = append(kinds, k.name)
	}
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
	d.fields(path, t, s.fields())
	return s, true
}

func (l *storeList) keys(path string) []string {
	all := []string{path + "[].kind"}
	for _, kind := range storeKinds() {
		s := newStore(kind.name)
		for name, f := range s.fields() {
			for _, key := range keysOf(path+"[]."+name, f.Type()) {
				if !slices.Contains(all, key) {
					all = append(all, key)
				}
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
