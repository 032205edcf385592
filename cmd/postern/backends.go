package main

import (
	"context"
	"fmt"
	"net"
	"slices"

	"postern/server/auth"
	"postern/server/auth/dovecot"
	"postern/server/auth/ldap"
	"postern/server/auth/pam"
	"postern/server/auth/saslauthd"
	"postern/server/auth/sql"
	"postern/server/auth/userfile"

	// The drivers of package sql register themselves when they are imported.
	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"
)

// A storeKind is what one value of kind = "..." in [[auth.stores]] means.
type storeKind struct {
	name        string
	config      func() auth.BackendConfig // with its defaults
	cached      bool                      // whether the table may have a section cache
	concurrency int                       // default of the key; 0 is that of auth.StoreDefaults
}

// hashing is the default concurrency of stores whose hashes postern compares
// itself: hash.Checker bounds that, and a password in its cache need not queue.
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
		{name: userfile.Kind, config: func() auth.BackendConfig { return new(userfile.Defaults()) }, concurrency: hashing},
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

// pamServices returns the services that need a PAM helper started by serve.
func (l storeList) pamServices() []string {
	var services []string
	for _, s := range l {
		if c, ok := s.Backend.(*pam.Config); ok && c.NeedsHelper() && !slices.Contains(services, c.Service) {
			services = append(services, c.Service)
		}
	}
	return services
}
