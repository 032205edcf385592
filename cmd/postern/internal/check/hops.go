package check

import (
	"context"
	"time"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/relay"
)

// hopTime bounds the check of one next hop.
const hopTime = 20 * time.Second

// nextHops connects to each next hop, unless the network must not be used.
func (c *checker) nextHops(ctx context.Context, cfg config.Relay, suffix string) {
	router, err := relay.New(cfg.Config, relay.NewLog(c.log))
	if err != nil {
		c.report.Result("relay", "", process.ExplainUnreadable(err))
		return
	}
	defer router.Close()
	if c.opts.Offline {
		return
	}
	var local []string
	for _, h := range router.Hops() {
		ctx, cancel := context.WithTimeout(ctx, hopTime)
		c.report.Result("relay", "next hop "+h.String()+suffix, h.Check(ctx))
		if h.OnThisMachine(ctx) {
			local = append(local, h.String())
		}
		cancel()
	}
	if len(local) > 0 {
		c.headerRewriting(local, len(cfg.DKIM) > 0)
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
	c.report.Note("relay", "on this machine: "+few(hops)+"; if that is Postfix, it rewrites the headers of messages from postern:\n"+
		"\"From: Smith, John <john@example.org>\" gets a domain after \"Smith\""+effect+"\n"+
		"disable that: postconf -e 'local_header_rewrite_clients =' && postfix reload\n"+
		"or for one entry of master.cf: -o local_header_rewrite_clients=")
}
