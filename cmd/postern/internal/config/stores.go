package config

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"postern/server/auth"
	"postern/server/auth/dovecot"
	"postern/server/auth/ldap"
	"postern/server/auth/pam"
	"postern/server/auth/saslauthd"
	"postern/server/auth/sql"
	"postern/server/auth/userfile"
)

// A storeKind is what one value of kind = "..." in [[auth.stores]] means.
type storeKind struct {
	name        string
	config      func() auth.BackendConfig // with its defaults
	cached      bool                      // whether the table may have a section cache
	concurrency int                       // default of the key; 0 is that of auth.StoreDefaults
	fold        auth.Fold                 // default of the key
}

// hashing is the default concurrency of stores whose hashes postern compares itself:
// hash.Checker bounds that, and a password in its cache need not queue.
const hashing = 1000

// storeKinds is the table of all kinds. To add one, write its package below
// server/auth, and add its row.
func storeKinds() []storeKind {
	return []storeKind{
		{name: dovecot.Kind, config: func() auth.BackendConfig { return new(dovecot.Defaults()) }},
		{name: ldap.Kind, config: func() auth.BackendConfig { return new(ldap.Defaults()) }, cached: true},
		{name: pam.Kind, config: func() auth.BackendConfig { return new(pam.Defaults()) }, cached: true},
		{name: saslauthd.Kind, config: func() auth.BackendConfig { return new(saslauthd.Defaults()) }, cached: true},
		{name: sql.Kind, config: func() auth.BackendConfig { return new(sql.Defaults()) }, concurrency: hashing},
		{name: userfile.Kind, config: func() auth.BackendConfig { return new(userfile.Defaults()) }, concurrency: hashing, fold: auth.FoldLower},
	}
}

// A Store is one table [[auth.stores]].
type Store struct {
	Kind string
	auth.StoreConfig
	Cache   auth.CacheConfig // its zero value for kinds without a cache
	Backend auth.BackendConfig
	cached  bool // whether the table may have a section cache
}

// newStore returns a table of a kind that storeKinds has, with the default values.
func newStore(kind string) Store {
	kinds := storeKinds()
	k := kinds[slices.IndexFunc(kinds, func(k storeKind) bool { return k.name == kind })]
	s := Store{Kind: k.name, StoreConfig: auth.StoreDefaults(), Backend: k.config(), cached: k.cached}
	s.Concurrency = cmp.Or(k.concurrency, s.Concurrency)
	s.Fold = cmp.Or(k.fold, auth.FoldNone)
	return s
}

// fields returns the values of the table by their keys.
func (s *Store) fields() map[string]reflect.Value {
	fields := fieldsOf(reflect.ValueOf(&s.StoreConfig).Elem())
	maps.Copy(fields, fieldsOf(reflect.ValueOf(s.Backend).Elem()))
	if s.cached {
		fields["cache"] = reflect.ValueOf(&s.Cache).Elem()
	}
	return fields
}

// String describes the store for the administrator: its kind, where it is, and its
// name, if it has one.
func (s Store) String() string {
	text := s.Kind + " " + s.Backend.Location()
	if s.LogName() != s.Kind {
		text = s.Name + ": " + text
	}
	return text
}

// LogName returns the name of the store in the log.
func (s Store) LogName() string { return cmp.Or(s.Name, s.Kind) }

// A StoreList is all tables [[auth.stores]] in their order.
type StoreList []Store

// Validate checks each store, and that the log can distinguish them. Keys are
// relative to [auth].
func (l StoreList) Validate(bad func(key, why string)) {
	seen := make(map[string]bool)
	for i, s := range l {
		at := fmt.Sprintf("stores[%d]", i)
		in := func(key, why string) { bad(join(at, key), why) }
		s.StoreConfig.Validate(in)
		if s.cached {
			s.Cache.Validate(func(key, why string) { in(join("cache", key), why) })
		}
		s.Backend.Validate(in)
		if seen[s.LogName()] {
			in("name", fmt.Sprintf("%q is the name of an earlier store; use a different name for each", s.LogName()))
		}
		seen[s.LogName()] = true
	}
	if l.DovecotOnly() && l[0].Login != auth.StoreDefaults().Login {
		bad("stores[0].login", "has no effect if Dovecot is the only store, because Dovecot receives the login as the client sends it; "+
			"set auth_username_format in Dovecot's configuration")
	}
	if l.DovecotOnly() && l[0].Fold == auth.FoldLower {
		bad("stores[0].fold", "has no effect if Dovecot is the only store, because Dovecot receives the login as the client sends it; "+
			"set auth_username_format = %Lu in Dovecot's configuration")
	}
}

// DovecotOnly reports whether Dovecot is the only store. It then runs the whole SASL
// exchange, with its own mechanisms.
func (l StoreList) DovecotOnly() bool { return len(l) == 1 && l[0].Kind == dovecot.Kind }

// PAMServices returns the services that need a PAM helper started by serve.
func (l StoreList) PAMServices() []string {
	var services []string
	for _, s := range l {
		if c, ok := s.Backend.(*pam.Config); ok && c.NeedsHelper() && !slices.Contains(services, c.Service) {
			services = append(services, c.Service)
		}
	}
	return services
}

func (l *StoreList) decode(d *decoder, path string, p toml.Primitive) {
	tables, ok := d.asTables(path, p)
	if !ok {
		return
	}
	*l = nil
	for i, t := range tables {
		at := fmt.Sprintf("%s[%d]", path, i)
		if s, ok := decodeStore(d, at, t); ok {
			*l = append(*l, s)
		}
	}
}

func decodeStore(d *decoder, path string, t table) (s Store, ok bool) {
	var kinds []string
	for _, k := range storeKinds() {
		kinds = append(kinds, k.name)
	}
	choice := `"` + strings.Join(kinds, `" or "`) + `"`
	named, ok := t["kind"]
	if !ok {
		d.bad(path+".kind", "is missing", "write kind = "+choice)
		return s, false
	}
	kind, _ := d.raw(named).(string)
	if !slices.Contains(kinds, kind) {
		d.bad(path+".kind", fmt.Sprintf("there is no kind of store %q", d.raw(named)), "write "+choice)
		return s, false
	}
	s = newStore(kind)
	delete(t, "kind")
	d.table(path, t, s.fields())
	return s, true
}

func (l *StoreList) keys(path string) []string {
	all := []string{path + "[].kind"}
	for _, k := range storeKinds() {
		s := newStore(k.name)
		for key, f := range s.fields() {
			all = append(all, keysOf(join(path+"[]", key), f.Type())...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
