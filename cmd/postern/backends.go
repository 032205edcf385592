package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"postern/server/auth"
	"postern/server/auth/dovecot"
	"postern/server/auth/ldap"
	"postern/server/auth/pam"
	"postern/server/auth/saslauthd"
	"postern/server/auth/sql"
	"postern/server/auth/userfile"

	// The drivers of package sql make themselves known by being imported.
	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"
)

// storeKinds is the table of the stores: what kind = "..." in [[auth.stores]]
// means. To add one, write its package below server/auth and its storeConfig
// here, and add its line.
func storeKinds() map[string]func() storeConfig {
	return map[string]func() storeConfig{
		dovecot.Kind: func() storeConfig { return &dovecotConfig{uncached{auth.StoreDefaults()}, dovecot.Defaults()} },
		ldap.Kind:    func() storeConfig { return &ldapConfig{cached{StoreConfig: auth.StoreDefaults()}, ldap.Defaults()} },
		pam.Kind:     func() storeConfig { return &pamConfig{cached{StoreConfig: auth.StoreDefaults()}, pam.Defaults()} },
		saslauthd.Kind: func() storeConfig {
			return &saslauthdConfig{cached{StoreConfig: auth.StoreDefaults()}, saslauthd.Defaults()}
		},
		sql.Kind:      func() storeConfig { return &sqlConfig{uncached{hashing()}, sql.Defaults()} },
		userfile.Kind: func() storeConfig { return &userfileConfig{uncached{hashing()}, userfile.Defaults()} },
	}
}

// quietDrivers keeps the driver for MySQL from writing to stderr by itself: what
// it has to say comes back as an error, too.
func quietDrivers() {
	_ = mysql.SetLogger(&mysql.NopLogger{}) // refuses nil only
}

// hashing are the defaults of stores whose hashes are compared here: that has
// bounds of its own, and a password that is remembered need not queue.
func hashing() auth.StoreConfig {
	c := auth.StoreDefaults()
	c.Concurrency = 1000
	return c
}

// A storeConfig is what one kind of store takes in [[auth.stores]]. It is
// the Config of its package, with what all kinds take: uncached or cached.
type storeConfig interface {
	validator // of the package
	common() map[string]validator
	spec() auth.StoreSpec // without a backend
	open(w *workshop) (auth.PasswordVerifier, error)
	where() string // what it asks, for a person

	// needs tells n which files the store opens and whom it connects to. full
	// makes the key of the whole file of one of the table.
	needs(full func(key string) string, n *needs)
}

type validator interface {
	Validate(bad func(key, why string))
}

// uncached is the part that every kind takes.
type uncached struct{ auth.StoreConfig }

// common are the values that have to make sense, by their keys: "" is the table
// itself.
func (c *uncached) common() map[string]validator {
	return map[string]validator{"": &c.StoreConfig}
}
func (c *uncached) spec() auth.StoreSpec { return auth.StoreSpec{Config: c.StoreConfig} }

// cached is the same for stores whose answers may be remembered.
type cached struct {
	auth.StoreConfig
	Cache auth.CacheConfig `toml:"cache"`
}

func (c *cached) common() map[string]validator {
	return map[string]validator{"": &c.StoreConfig, "cache": &c.Cache}
}
func (c *cached) spec() auth.StoreSpec {
	return auth.StoreSpec{Config: c.StoreConfig, Cache: c.Cache}
}

type dovecotConfig struct {
	uncached
	dovecot.Config
}

func (c *dovecotConfig) where() string { return c.Path.String() }
func (c *dovecotConfig) open(w *workshop) (auth.PasswordVerifier, error) {
	return dovecot.New(c.Config, w.log.Logger), nil
}

type ldapConfig struct {
	cached
	ldap.Config
}

func (c *ldapConfig) where() string {
	servers := make([]string, len(c.ServerHost))
	for i, u := range c.ServerHost {
		servers[i] = u.String()
	}
	return strings.Join(servers, " ")
}
func (c *ldapConfig) open(w *workshop) (auth.PasswordVerifier, error) {
	return ldap.New(c.Config, w.log.Logger)
}

type pamConfig struct {
	cached
	pam.Config
}

func (c *pamConfig) where() string { return "service " + c.Service }
func (c *pamConfig) open(w *workshop) (auth.PasswordVerifier, error) {
	switch {
	case w.pamHelper == nil:
		return pam.New(c.Config, nil)
	case c.Socket == "" && !slices.Contains(w.pamServices, c.Service):
		return nil, fmt.Errorf("the PAM helper does not serve %q, and only root can start another one: restart postern", c.Service)
	}
	return pam.New(c.Config, w.pamHelper.Dial)
}

type saslauthdConfig struct {
	cached
	saslauthd.Config
}

func (c *saslauthdConfig) where() string { return c.Path }
func (c *saslauthdConfig) open(*workshop) (auth.PasswordVerifier, error) {
	return saslauthd.New(c.Config), nil
}

type sqlConfig struct {
	uncached
	sql.Config
}

func (c *sqlConfig) where() string {
	return string(c.Driver) + " " + cmp.Or(c.Path, c.DSNFile, c.DSN)
}
func (c *sqlConfig) open(w *workshop) (auth.PasswordVerifier, error) {
	return sql.New(c.Config, w.checker)
}

type userfileConfig struct {
	uncached
	userfile.Config
}

func (c *userfileConfig) where() string { return c.Path }
func (c *userfileConfig) open(w *workshop) (auth.PasswordVerifier, error) {
	return userfile.New(c.Config, w.checker, w.log.Logger)
}

// pamServices are the services that the helper is asked for, where serve is to
// start one.
func (l storeList) pamServices() []string {
	var services []string
	for _, s := range l {
		if c, ok := s.storeConfig.(*pamConfig); ok && c.Socket == "" && !slices.Contains(services, c.Service) {
			services = append(services, c.Service)
		}
	}
	return services
}
