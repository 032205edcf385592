package check

import (
	"context"
	"fmt"
	"strings"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/server/auth/hash"
	"postern/server/auth/sql"
)

// stores opens each store alone, so that each has a result.
func (c *checker) stores(ctx context.Context, cfg config.Auth, suffix string) {
	works := true
	for _, s := range cfg.Stores {
		users, err := c.app.CheckStore(ctx, cfg, s, c.opts.Offline)
		c.report.Result("store", s.String()+suffix, err)
		works = works && err == nil
		c.warnOfScram(users)
		if backend, ok := s.Backend.(*sql.Config); ok && backend.UnknownUserHash == "" {
			c.report.Note("store", s.LogName()+": unknown_user_hash is not set: until users have logged in after a start, the time of a reply\n"+
				"can show which users exist; set it to the kind of most hashes in the table, such as \""+string(hash.DefaultKind)+"\"")
		}
	}
	if !works || c.opts.Offline { // the cause is above, or only Dovecot knows them
		return
	}
	names, err := c.app.CheckMechanisms(ctx, cfg)
	c.report.Result("mechanisms", strings.Join(names, " ")+suffix, err)
}

// warnOfScram names the users that cannot log in by SCRAM with every client.
func (c *checker) warnOfScram(users app.ScramUsers) {
	const remedy = "\nset a new password for each: postern passwd --scheme scram-sha-256"
	if len(users.WithoutKeys) > 0 {
		c.report.Warn("store", fmt.Sprintf("SCRAM is offered, but clients that prefer it cannot log in these users, who have no keys for it: %s", few(users.WithoutKeys))+remedy)
	}
	if n := len(users.Costly); n > 0 {
		c.report.Warn("store", fmt.Sprintf("SCRAM is offered, but the keys of %d users have more than %d iterations, "+
			"which clients with Cyrus SASL, such as Postfix, refuse to compute: %s", n, hash.CyrusMaxIterations, few(users.Costly))+remedy)
	}
}
