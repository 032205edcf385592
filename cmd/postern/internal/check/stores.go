package check

import (
	"context"
	"fmt"
	"strings"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/server/auth/sql"
)

// stores opens each store alone, so that each has a result.
func (c *checker) stores(ctx context.Context, cfg config.Auth, suffix string) {
	works := true
	for _, s := range cfg.Stores {
		found, err := c.app.CheckStore(ctx, cfg, s, c.opts.Offline)
		if err == nil {
			c.report.OK("store", s.String()+suffix)
		}
		for _, cause := range causes(err) {
			c.report.Fail("store", cause)
		}
		works = works && err == nil
		c.warnOfScram(found.Scram)
		c.remark(found.Remarks)
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

// causes returns the errors that err joins: each is an entry with its own next step.
func causes(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err != nil {
		return []error{err}
	}
	return nil
}

// remark reports what prevents no login. Weak hashes are a note and no warning: those of a
// database that has moved here are replaced when their users set new passwords, and until then
// the set-up is as sound as it was.
func (c *checker) remark(remarks []auth.Remark) {
	for _, r := range remarks {
		if r.Warning {
			c.report.Warn("store", r.Text)
			continue
		}
		c.report.Note("store", r.Text)
	}
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
