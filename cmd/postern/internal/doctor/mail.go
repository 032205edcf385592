package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"blitiri.com.ar/go/spf"
	"github.com/emersion/go-msgauth/dmarc"
	"github.com/miekg/dns"

	"postern/relay/sign"
)

// exchangers looks for the servers that accept mail for the domain: replies and delivery
// reports go there.
func (e *examination) exchangers(ctx context.Context) {
	records, err := e.dns.ask(ctx, e.domain, dns.TypeMX)
	if e.unanswered("MX", e.domain, err) {
		return
	}
	servers := of[*dns.MX](records)
	if len(servers) == 0 {
		e.report.Warn("MX", fmt.Sprintf("%s has no MX record, so replies may not arrive\n%s", e.domain, missing(fmt.Sprintf("%s. IN MX 10 %s.", e.domain, e.host))))
		return
	}
	var names []string
	for _, mx := range servers {
		if mx.Mx == "." {
			e.report.Warn("MX", fmt.Sprintf("%s accepts no mail (RFC 7505), so nobody can reply to its users, and many servers refuse their mail\n"+
				"replace the record:\n%s. IN MX 10 %s.", e.domain, e.domain, e.host))
			return
		}
		if _, err := netip.ParseAddr(strings.TrimSuffix(mx.Mx, ".")); err == nil {
			e.report.Fail("MX", fmt.Errorf("the MX record of %s has the address %s, where only a name is allowed\nreplace the record:\n%s",
				e.domain, shown(mx.Mx), fmt.Sprintf("%s. IN MX 10 %s.", e.domain, e.host)))
			return
		}
		addrs, err := e.dns.addresses(ctx, mx.Mx)
		if err == nil && len(addrs) == 0 {
			e.report.Fail("MX", fmt.Errorf("%s names %s, which has no address\ncorrect the record, or give the name an address", e.domain, shown(mx.Mx)))
			return
		}
		names = append(names, shown(strings.TrimSuffix(mx.Mx, ".")))
	}
	e.report.OK("MX", e.domain+": "+strings.Join(names, " "))
}

// senders returns the addresses from which the mail leaves: those of the next hops that are
// on other machines, otherwise those of this server, where the Postfix is that it uses.
func (e *examination) senders(ctx context.Context) (addrs []netip.Addr, of string) {
	for _, s := range e.cfg.RelaySections() {
		for _, hop := range s.NextHops {
			if hop.IsLocal() {
				return e.addrs, e.host
			}
			if found, err := e.dns.addresses(ctx, hop.Host); err == nil {
				addrs, of = append(addrs, found...), hop.Host
			}
		}
	}
	if len(addrs) == 0 {
		return e.addrs, e.host
	}
	return addrs, of
}

// spf evaluates the SPF record of the domain (RFC 7208) as receivers do.
func (e *examination) spf(ctx context.Context) {
	addrs, of := e.senders(ctx)
	want := missing(fmt.Sprintf(`%s. IN TXT "v=spf1 mx a:%s ~all"`, e.domain, of))
	for _, a := range addrs {
		result, err := spf.CheckHostWithSender(net.IP(a.AsSlice()), e.host, "postmaster@"+e.domain, spf.WithResolver(e.dns), spf.WithContext(ctx))
		about := fmt.Sprintf("%s, of %s: %s", a, of, result)
		switch result {
		case spf.Pass:
			e.report.OK("SPF", about)
		case spf.None:
			e.report.Warn("SPF", fmt.Sprintf("%s has no SPF record, and large providers refuse such mail\n%s", e.domain, want))
			return
		case spf.TempError:
			e.unanswered("SPF", e.domain, err)
		case spf.PermError:
			e.report.Fail("SPF", fmt.Errorf("the SPF record of %s cannot be evaluated: %s\ncorrect it; the shortest that works:\n%s. IN TXT \"v=spf1 mx a:%s ~all\"",
				e.domain, shown(fmt.Sprint(err)), e.domain, of))
			return
		default: // fail, softfail, neutral
			if a.IsPrivate() {
				continue // receivers see the address of the router
			}
			e.report.Fail("SPF", fmt.Errorf("%s, which is how receivers treat the mail of %s\nadd ip%d:%s to the SPF record, before its \"all\"", about, e.domain, version(a), a))
		}
	}
}

func version(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// dkim compares the record of each key with the key.
func (e *examination) dkim(ctx context.Context) {
	seen := make(map[sign.Key]bool)
	for _, s := range e.cfg.RelaySections() {
		for _, k := range s.DKIM {
			if !seen[k] {
				seen[k] = true
				e.key(ctx, k)
			}
		}
	}
	if len(seen) == 0 {
		e.report.Note("DKIM", "postern signs nothing; unless the next hop signs, large providers refuse much of the mail\nmake a key: postern dkim keygen "+e.domain)
	}
}

// key looks at the record of one key (RFC 6376, section 3.6.1).
func (e *examination) key(ctx context.Context, k sign.Key) {
	want, err := k.Record()
	if err != nil {
		return // check has the reason
	}
	texts, err := e.dns.texts(ctx, want.Name)
	if e.unanswered("DKIM", want.Name, err) {
		return
	}
	record := strings.TrimSpace(want.String())
	var found []string
	for _, t := range texts {
		if t == want.Text || keyOf(t)["p"] != "" || strings.Contains(t, "v=DKIM1") {
			found = append(found, t)
		}
	}
	switch {
	case len(found) == 0:
		if twice := want.Name + "." + k.Domain; e.hasKey(ctx, twice) {
			e.report.Fail("DKIM", fmt.Errorf("the record for %s is at %s, where the domain is twice\n"+
				"write the name with a dot at its end, or without the domain:\n%s", want.Name, shown(twice), record))
			return
		}
		e.report.Fail("DKIM", fmt.Errorf("%s has no record, so receivers cannot verify the signatures\n%s", want.Name, missing(record)))
	case len(found) > 1:
		e.report.Fail("DKIM", fmt.Errorf("%s has several records, so receivers reject the signatures\nreplace them:\n%s", want.Name, record))
	default:
		e.compare(found[0], want, k.File)
	}
}

// compare compares a record with the one that the key in file has to have.
func (e *examination) compare(found string, want sign.Record, file string) {
	bad := func(why string) {
		e.report.Fail("DKIM", fmt.Errorf("%s %s, so receivers reject the signatures\nreplace the record:\n%s", want.Name, why, strings.TrimSpace(want.String())))
	}
	got, expected := keyOf(found), keyOf(want.Text)
	_, hasKey := got["p"]
	kind := got["k"]
	if kind == "" {
		kind = "rsa"
	}
	switch {
	case strings.ContainsAny(found, `"\`):
		bad("contains quotes or backslashes, which are part of zone files and not of records")
	case got["v"] != "" && got["v"] != "DKIM1":
		bad("has the version " + shown(got["v"]))
	case !hasKey:
		bad("has no key: p= is missing")
	case got["p"] == "":
		bad("is revoked: p= is empty")
	case kind != expected["k"]:
		bad(fmt.Sprintf("is for a key of the kind %s, and %s has one of the kind %s", shown(kind), file, expected["k"]))
	case strings.HasPrefix(expected["p"], got["p"]) && got["p"] != expected["p"]:
		bad(fmt.Sprintf("is cut off after %d characters of %d", len(got["p"]), len(expected["p"])))
	case got["p"] != expected["p"]:
		bad("is for another key than " + file)
	case got["h"] != "" && !slices.Contains(strings.Split(got["h"], ":"), "sha256"):
		bad("does not allow sha256: h=" + shown(got["h"]))
	case got["s"] != "" && !slices.ContainsFunc(strings.Split(got["s"], ":"), func(s string) bool { return s == "*" || s == "email" }):
		bad("is not for mail: s=" + shown(got["s"]))
	case slices.Contains(strings.Split(got["t"], ":"), "y"):
		e.report.Warn("DKIM", fmt.Sprintf("%s is marked as a test (t=y), so receivers ignore the signatures\nremove t=y from the record", want.Name))
	default:
		e.report.OK("DKIM", want.Name)
	}
}

// hasKey reports whether a name has a record with a key; other texts can be from a wildcard.
func (e *examination) hasKey(ctx context.Context, name string) bool {
	texts, err := e.dns.texts(ctx, name)
	return err == nil && slices.ContainsFunc(texts, func(t string) bool { return keyOf(t)["p"] != "" })
}

// keyOf parses the tags of a key record, without blanks (RFC 6376, section 3.2).
func keyOf(record string) map[string]string {
	tags := make(map[string]string)
	for part := range strings.SplitSeq(record, ";") {
		name, value, _ := strings.Cut(part, "=")
		name = strings.TrimSpace(name)
		if _, twice := tags[name]; !twice {
			tags[name] = strings.Join(strings.Fields(value), "")
		}
	}
	return tags
}

// dmarc looks for the policy of the domain, and at what will be aligned with it (RFC 7489).
func (e *examination) dmarc(ctx context.Context) {
	name := "_dmarc." + e.domain
	var failed error
	policies := 0
	lookup := &dmarc.LookupOptions{LookupTXT: func(asked string) ([]string, error) {
		texts, err := e.dns.LookupTXT(ctx, asked)
		if dnsErr, ok := errors.AsType[*net.DNSError](err); ok && dnsErr.IsTemporary {
			failed = err
		}
		for _, t := range texts {
			if strings.HasPrefix(t, "v=DMARC1") {
				name = asked
				policies++
			}
		}
		return texts, err
	}}
	record, err := dmarc.LookupWithOptions(e.domain, lookup)
	// A policy of a domain above covers those below it (RFC 7489, section 6.6.3). The parent
	// is asked while it has a dot, so that no top-level domain is.
	for parent := e.domain; errors.Is(err, dmarc.ErrNoPolicy) && failed == nil; {
		if _, parent, _ = strings.Cut(parent, "."); !strings.Contains(parent, ".") {
			break
		}
		record, err = dmarc.LookupWithOptions(parent, lookup)
	}
	want := fmt.Sprintf(`%s. IN TXT "v=DMARC1; p=none; rua=mailto:postmaster@%s"`, name, strings.TrimPrefix(name, "_dmarc."))
	switch {
	case failed != nil:
		e.unanswered("DMARC", name, failed)
		return
	case policies > 1:
		e.report.Fail("DMARC", fmt.Errorf("%s has %d records, so receivers ignore all of them\nremove all but one", name, policies))
		return
	case errors.Is(err, dmarc.ErrNoPolicy):
		e.report.Warn("DMARC", fmt.Sprintf("%s has no DMARC policy, and large providers require one\n%s", e.domain, missing(want)))
		return
	case err != nil:
		e.report.Fail("DMARC", fmt.Errorf("%s cannot be read: %s\nreplace the record:\n%s", name, shown(err.Error()), want))
		return
	}
	if d := e.misaligned(record); d != "" {
		e.report.Warn("DMARC", fmt.Sprintf("the policy of %s is p=%s, and the DKIM key for %s is not aligned with it (adkim=%s)\n"+
			"add a key for %s: postern dkim keygen %[5]s", e.domain, record.Policy, d, record.DKIMAlignment, e.domain))
		return
	}
	e.report.OK("DMARC", fmt.Sprintf("%s: p=%s", name, record.Policy))
}

// misaligned returns the domain of a key if there are keys and none is aligned with the
// domain of the users: the same one, or, unless the policy is strict, one above it or below.
func (e *examination) misaligned(record *dmarc.Record) (domain string) {
	for _, s := range e.cfg.RelaySections() {
		for _, k := range s.DKIM {
			related := strings.HasSuffix(e.domain, "."+k.Domain) || strings.HasSuffix(k.Domain, "."+e.domain)
			if same(k.Domain, e.domain) || related && record.DKIMAlignment != dmarc.AlignmentStrict {
				return ""
			}
			domain = k.Domain
		}
	}
	return domain
}
