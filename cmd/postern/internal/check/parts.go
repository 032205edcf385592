package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"postern/certs"
	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/policy"
	"postern/relay"
	"postern/relay/sign"
	"postern/server/auth/hash"
	"postern/server/auth/sql"
)

// hopTime bounds the check of one next hop.
const hopTime = 20 * time.Second

// certificates opens each pair alone, so that each has a result.
func (c *checker) certificates(cfg certs.Config, suffix string) {
	for _, p := range cfg.Certificates {
		one := certs.Config{Certificates: []certs.Pair{p}, MinVersion: cfg.MinVersion}
		files, err := certs.OpenFiles(one, certs.NewLog(c.log), process.ExplainUnreadable)
		if err != nil {
			c.result("certificate", p.Cert+suffix, err)
			continue
		}
		for _, i := range files.Infos() {
			text := fmt.Sprintf("%s: %s, %s, until %s%s", i.Cert, strings.Join(i.Names, " "), i.Algorithm, i.NotAfter.Format(time.DateOnly), suffix)
			if i.Warning != "" {
				c.warn("certificate", text+"\n"+i.Warning)
			} else {
				c.result("certificate", text, nil)
			}
		}
	}
}

// stores opens each store alone, so that each has a result.
func (c *checker) stores(ctx context.Context, cfg config.Auth, suffix string) {
	for _, s := range cfg.Stores {
		users, err := c.app.CheckStore(ctx, cfg, s)
		c.result("store", s.String()+suffix, err)
		c.warnOfScram(users)
		if backend, ok := s.Backend.(*sql.Config); ok && backend.UnknownUserHash == "" {
			c.line("note", "store", s.LogName()+": unknown_user_hash is not set: until users have logged in after a start, the time of a reply\n"+
				"can show which users exist; set it to the kind of most hashes in the table, such as \""+string(hash.DefaultKind)+"\"")
		}
	}
	names, err := c.app.CheckMechanisms(ctx, cfg)
	c.result("mechanisms", strings.Join(names, " ")+suffix, err)
}

// warnOfScram names the users that cannot log in by SCRAM with every client.
func (c *checker) warnOfScram(users app.ScramUsers) {
	const remedy = "\nset a new password for each: postern passwd --scheme scram-sha-256"
	if len(users.WithoutKeys) > 0 {
		c.warn("store", fmt.Sprintf("SCRAM is offered, but clients that prefer it cannot log in these users, who have no keys for it: %s", few(users.WithoutKeys))+remedy)
	}
	if n := len(users.Costly); n > 0 {
		c.warn("store", fmt.Sprintf("SCRAM is offered, but the keys of %d users have more than %d iterations, "+
			"which clients with Cyrus SASL, such as Postfix, refuse to compute: %s", n, hash.CyrusMaxIterations, few(users.Costly))+remedy)
	}
}

// policies prints a warning that several listeners have only once.
func (c *checker) policies(ctx context.Context) {
	policies, err := app.OpenPolicies(c.cfg)
	c.result("policy", "all restrictions are valid, and no listener is an open relay", err)
	inTable := func(*config.Listener) string { return "" }
	if err == nil {
		c.tables(ctx, policies)
		defer policies.Close()
		inTable = func(l *config.Listener) string { return policies.Set(l).TableWithNetworks() }
	}
	seen := make(map[policy.Warning]bool)
	for i := range c.cfg.Listeners {
		l := &c.cfg.Listeners[i]
		for _, w := range l.Policy.Lint(policy.Context{
			RequireAuth: l.RequireAuth,
			Signs:       len(l.Relay.DKIM) > 0,
			InTable:     inTable(l),
			Proxies:     c.cfg.Server.ProxyTrusted,
			Gateways:    c.machine.sharedNetworks(),
		}) {
			if !seen[w] {
				c.warn("policy", fmt.Sprintf("%s (listener %s): %s", w.Key, l.Name, w.Text))
			}
			seen[w] = true
		}
	}
}

// tables checks a lookup table that several listeners use only once.
func (c *checker) tables(ctx context.Context, policies *app.Policies) {
	seen := make(map[string]bool)
	for i := range c.cfg.Listeners {
		policies.Set(&c.cfg.Listeners[i]).Check(ctx, func(table string, err error) {
			if !seen[table] {
				c.result("table", table, err)
			}
			seen[table] = true
		})
	}
}

// nextHops connects to each next hop.
func (c *checker) nextHops(ctx context.Context, cfg config.Relay, suffix string) {
	router, err := relay.New(cfg.Config, relay.NewLog(c.log))
	if err != nil {
		c.result("relay", "", process.ExplainUnreadable(err))
		return
	}
	var local []string
	for _, h := range router.Hops() {
		ctx, cancel := context.WithTimeout(ctx, hopTime)
		c.result("relay", "next hop "+h.String()+suffix, h.Check(ctx))
		if h.OnThisMachine(ctx) {
			local = append(local, h.String())
		}
		cancel()
	}
	if len(local) > 0 {
		c.headerRewriting(local, len(cfg.DKIM) > 0)
	}
	if err := router.Close(); err != nil {
		c.result("relay", "", err)
	}
}

// headerRewriting describes a setting of Postfix: by default it changes header fields
// of clients on its own machine. SMTP does not show whether that is disabled already,
// so this is not a warning.
func (c *checker) headerRewriting(hops []string, signed bool) {
	effect := "."
	if signed {
		effect = ",\nwhich invalidates the signatures of the DKIM keys below."
	}
	c.line("note", "relay", "on this machine: "+few(hops)+"; if that is Postfix, it rewrites the headers of messages from postern:\n"+
		"\"From: Smith, John <john@example.org>\" gets a domain after \"Smith\""+effect+"\n"+
		"disable that: postconf -e 'local_header_rewrite_clients =' && postfix reload\n"+
		"or for one entry of master.cf: -o local_header_rewrite_clients=")
}

// keys opens each DKIM key alone, so that each has a result.
func (c *checker) keys(keys []sign.Key, suffix string) {
	for _, k := range keys {
		_, err := sign.New([]sign.Key{k}, sign.NewLog(c.log))
		c.result("DKIM key", fmt.Sprintf("%s, selector %s: %s%s", k.Domain, k.Selector, k.File, suffix), process.ExplainUnreadable(err))
	}
}
