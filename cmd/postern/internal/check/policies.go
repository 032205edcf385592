package check

import (
	"context"
	"fmt"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/policy"
)

// policies prints a warning that several listeners have only once.
func (c *checker) policies(ctx context.Context) {
	policies, err := app.OpenPolicies(c.cfg)
	c.report.Result("policy", "all restrictions are valid, and no listener is an open relay", err)
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
				c.report.Warn("policy", fmt.Sprintf("%s (listener %s): %s", w.Key, l.Name, w.Text))
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
				c.report.Result("table", table, err)
			}
			seen[table] = true
		})
	}
}
