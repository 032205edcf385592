package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"postern/server/auth"
	"postern/server/auth/userfile"
)

// storeKinds is the table of the stores: what kind = "..." in [[auth.stores]]
// means. To add one, write its package below server/auth and its storeConfig
// here, and add its line.
func storeKinds() map[string]func() storeConfig {
	return map[string]func() storeConfig{
		userfile.Kind: func() storeConfig { return &userfileConfig{userfile.Defaults()} },
	}
}

// A storeConfig is what one kind of store takes in [[auth.stores]].
type storeConfig interface {
	fmt.Stringer // what it is, for a person
	Validate(bad func(key, why string))
	open(w *workshop) (auth.PasswordVerifier, error)
}

type userfileConfig struct{ userfile.Config }

func (c *userfileConfig) String() string { return userfile.Kind + " " + c.Path }

func (c *userfileConfig) open(w *workshop) (auth.PasswordVerifier, error) {
	return userfile.New(c.Config, w.checker, w.log.Logger)
}

// openStores are the stores of one configuration, in its order.
type openStores []auth.PasswordVerifier

// openStores opens all stores of cfg. It fails if one of them cannot be used.
func (w *workshop) openStores(cfg *Config) (*openStores, error) {
	stores := new(openStores)
	for _, s := range cfg.Auth.Stores {
		v, err := s.open(w)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("store %s: %w", s, explainUnreadable(err)), stores.Close())
		}
		*stores = append(*stores, v)
	}
	return stores, nil
}

// VerifyPassword asks one store after the other, until one knows the user.
func (s *openStores) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (id auth.Identity, err error) {
	for _, v := range *s {
		id, err = v.VerifyPassword(ctx, p, login, password)
		if !asksNext(err) {
			break
		}
	}
	return id, err
}

// asksNext says that the answer leaves the question open: the store does not
// know the user, or says no without saying why.
func asksNext(err error) bool {
	var no *auth.Failure
	return errors.As(err, &no) && (no.Kind == auth.NoSuchUser || no.Kind == auth.Unknowable)
}

// Close closes the stores that have something to close.
func (s *openStores) Close() error {
	var errs []error
	for _, v := range *s {
		if c, ok := v.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// checkStore opens a store for a moment and asks it whether all is well, where
// it can tell.
func (w *workshop) checkStore(ctx context.Context, s store) error {
	v, err := s.open(w)
	if err != nil {
		return explainUnreadable(err)
	}
	if c, ok := v.(interface{ Check(context.Context) error }); ok {
		err = c.Check(ctx)
	}
	return errors.Join(err, (&openStores{v}).Close())
}

// A store is one table [[auth.stores]]: its kind, and what that kind takes.
type store struct {
	Kind string
	storeConfig
}

func newStore(kind string) store { return store{kind, storeKinds()[kind]()} }

// A storeList is all of them. What a table may hold depends on its kind.
type storeList []store

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
		all = append(all, keysOf(path+"[]", reflect.TypeOf(newConfig()).Elem())...)
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
