package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/internal/text"
	"postern/relay"
)

// hopTime bounds the check of one next hop.
const hopTime = 20 * time.Second

// nextHops asks each next hop how it would answer a message, unless the network must not
// be used. What the hop refuses is refused to the clients of serve, too.
func (c *checker) nextHops(ctx context.Context, cfg config.Relay, suffix string) {
	router, err := relay.New(cfg.Config, relay.NewLog(c.log))
	if err != nil {
		c.report.Fail("relay", process.ExplainUnreadable(err))
		return
	}
	defer router.Close()
	if c.opts.Offline {
		return
	}
	var local []string
	for _, h := range router.Hops() {
		ctx, cancel := context.WithTimeout(ctx, hopTime)
		c.nextHop(ctx, h, suffix)
		if h.OnThisMachine(ctx) {
			local = append(local, h.String())
		}
		cancel()
	}
	if len(local) > 0 {
		c.headerRewriting(local, len(cfg.DKIM) > 0)
	}
}

// nextHop adds one entry for each cause of refusals, or an OK entry.
func (c *checker) nextHop(ctx context.Context, h *relay.Hop, suffix string) {
	_, origin := c.cfg.Server.Names()
	postmaster := asciiDomain("postmaster@" + origin)
	works, sevenBit := true, false
	for _, a := range h.Probe(ctx, postmaster, postmaster, asciiDomain(c.opts.outside())) {
		name := "next hop " + h.String() + suffix
		if a.Err != nil {
			works = false
			if c.resolverFailed(a.Err) {
				continue
			}
			c.report.Fail("relay", fmt.Errorf("%s: %w\n%s", name, a.Err, a.Step))
			continue
		}
		if a.Own.IsValid() && !strings.HasSuffix(h.String(), "//"+a.Address) {
			name += " at " + a.Address
		}
		sevenBit = sevenBit || !a.Caps.EightBit
		for _, r := range byCause(a.Refused) {
			c.refused(name, r)
			works = works && r.Reach == relay.None
		}
	}
	switch {
	case works && sevenBit:
		c.report.Warn("relay", "next hop "+h.String()+suffix+" does not offer 8BITMIME, so messages with 8-bit characters are refused\n"+
			"enable it at the hop (Postfix: take 8bitmime out of smtpd_discard_ehlo_keywords)")
	case works:
		c.report.OK("relay", "next hop "+h.String()+suffix)
	}
}

// asciiDomain converts the domain of an address to A-labels, since a hop need not offer
// SMTPUTF8. A domain that IDNA does not permit stays as it is.
func asciiDomain(address string) string {
	at := strings.LastIndexByte(address, '@')
	if text.IsASCII(address[at+1:]) {
		return address
	}
	domain, err := idna.Lookup.ToASCII(address[at+1:])
	if err != nil {
		return address
	}
	return address[:at+1] + domain
}

// byCause joins the refusals that have the same next step, with the reply of the last.
func byCause(all []relay.Refused) (joined []relay.Refused) {
	for _, r := range all {
		i := slices.IndexFunc(joined, func(j relay.Refused) bool { return j.Step == r.Step })
		if i < 0 {
			joined = append(joined, r)
			continue
		}
		joined[i].Command, joined[i].Reply = joined[i].Command+" and "+r.Command, r.Reply
	}
	return joined
}

func (c *checker) refused(name string, r relay.Refused) {
	explained := fmt.Sprintf("%s refuses %s: %s\n%s", name, r.Command, r.Reply, r.Step)
	switch r.Reach {
	case relay.All:
		c.report.Fail("relay", errors.New(explained))
	case relay.Some:
		c.report.Warn("relay", explained)
	case relay.None:
		c.report.Note("relay", explained)
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
