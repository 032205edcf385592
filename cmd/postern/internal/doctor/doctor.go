// Package doctor looks at a set-up as the world does: at the DNS records that mail clients
// and receivers of mail need, and at the ports. It prints the records that are missing, as
// lines of a zone file. "postern doctor" runs it after package check.
//
//	doctor    the order, and what the set-up is
//	resolver  questions to DNS servers
//	clients   what mail clients need: addresses, SRV records, ports, TLSA
//	mail      what receivers need: MX, SPF, DKIM, DMARC
//
// It looks only at what postern is for: the submission of mail of the domain
// server.origin. It sends no message, and connects only to the server itself.
//
// To add a record, write a method of examination in the file for its reader, and call it
// in Run. Everything that comes from the DNS is quoted or escaped in the output.
package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"postern/cmd/postern/internal/check"
	"postern/cmd/postern/internal/config"
	"postern/internal/text"
)

// Run adds its entries to the report. resolver is HOST or HOST:PORT of the server to ask;
// empty means those of /etc/resolv.conf.
func Run(ctx context.Context, cfg *config.Config, resolver string, report *check.Report) {
	ctx, cancel := context.WithTimeout(ctx, totalTime)
	defer cancel()
	dns, err := newResolver(resolver)
	if err != nil {
		report.Fail("resolver", err)
		return
	}
	e := &examination{cfg: cfg, dns: dns, report: report}
	e.host, e.domain = cfg.Server.Names()
	if !public(e.host) {
		report.Note("dns", fmt.Sprintf("%s is not a name of the Internet, so it has no records\nset server.hostname to the public name of this server", e.host))
		return
	}
	if !e.server(ctx) {
		return
	}
	e.reverse(ctx)
	e.tlsa(ctx)
	e.records(ctx)
	e.ports(ctx) // last, as the time that silent ports take is not to be missing for questions
}

// records looks for the records of the domain.
func (e *examination) records(ctx context.Context) {
	if !public(e.domain) {
		e.report.Note("dns", fmt.Sprintf("server.origin, %s, is not a domain of the Internet, so it has no records", e.domain))
		return
	}
	e.services(ctx)
	e.exchangers(ctx)
	e.spf(ctx)
	e.dkim(ctx)
	e.dmarc(ctx)
}

// An examination is one run.
type examination struct {
	cfg    *config.Config
	dns    *resolver
	report *check.Report

	host, domain string
	addrs        []netip.Addr // of host
}

// unanswered adds an entry for a question that no server answered. It reports whether there
// was one.
func (e *examination) unanswered(part, name string, err error) bool {
	if err == nil {
		return false
	}
	e.report.Warn(part, fmt.Sprintf("%s: %s\nsee whether that server works (dig %[1]s), or name another one with --resolver", name, shown(err.Error())))
	return true
}

// missing returns lines to paste into the zone.
func missing(lines ...string) string {
	return "add to the zone:\n" + strings.Join(lines, "\n")
}

// shown bounds and escapes what comes from the DNS.
func shown(s string) string {
	return text.Shorten(text.Printable(s, '?'), 300)
}
