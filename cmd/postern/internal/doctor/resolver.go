package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the questions to the resolver. A record that people write has a few hundred
// octets; what a hostile server sends beyond that is not shown.
const (
	questionTime = 4 * time.Second // one question, to one server, once
	totalTime    = 60 * time.Second
	maxQuestions = 300
	maxRecords   = 256 // of one answer; large domains have a hundred TXT records
	udpSize      = 1232
)

var errQuestions = errors.New("too many questions; the records refer to each other in a circle, or too often")

// A resolver asks DNS servers that resolve recursively. It implements spf.DNSResolver. It is
// not safe for concurrent use.
type resolver struct {
	servers []string // host:port
	asked   int
}

// newResolver uses one server, or, if it is empty, those of the machine.
func newResolver(server string) (*resolver, error) {
	if server != "" {
		if _, _, err := net.SplitHostPort(server); err != nil {
			server = net.JoinHostPort(strings.Trim(server, "[]"), "53")
		}
		return &resolver{servers: []string{server}}, nil
	}
	const file = "/etc/resolv.conf"
	cfg, err := dns.ClientConfigFromFile(file)
	if err != nil || len(cfg.Servers) == 0 {
		return nil, fmt.Errorf("%s names no server to resolve names; name one with --resolver", file)
	}
	r := new(resolver)
	for _, s := range cfg.Servers {
		r.servers = append(r.servers, net.JoinHostPort(s, cfg.Port))
	}
	return r, nil
}

// ask returns the records of one type that a name has, after aliases, none if there is no
// such name or no such record. An error means that no server could answer.
func (r *resolver) ask(ctx context.Context, name string, kind uint16) (records []dns.RR, err error) {
	if r.asked++; r.asked > maxQuestions {
		return nil, errQuestions
	}
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	question.SetEdns0(udpSize, false)
	for _, server := range r.servers {
		var answer *dns.Msg
		if answer, err = exchange(ctx, question, server); err != nil {
			err = fmt.Errorf("%s does not answer: %w", server, err)
			continue
		}
		switch answer.Rcode {
		case dns.RcodeSuccess, dns.RcodeNameError:
			for _, rr := range answer.Answer {
				if rr.Header().Rrtype == kind && len(records) < maxRecords {
					records = append(records, rr)
				}
			}
			return records, nil
		}
		err = fmt.Errorf("%s answers %s for %s %s", server, dns.RcodeToString[answer.Rcode], name, dns.TypeToString[kind])
	}
	return nil, err
}

// exchange repeats a truncated answer over TCP (RFC 7766), and a lost packet once.
func exchange(ctx context.Context, question *dns.Msg, server string) (answer *dns.Msg, err error) {
	for _, network := range []string{"udp", "udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: questionTime, UDPSize: udpSize}
		answer, _, err = c.ExchangeContext(ctx, question, server)
		if err == nil && !answer.Truncated {
			return answer, nil
		}
		if err == nil {
			c.Net = "tcp"
			answer, _, err = c.ExchangeContext(ctx, question, server)
			return answer, err
		}
	}
	return nil, err
}

// of returns the records as values of one type of package dns.
func of[T dns.RR](records []dns.RR) (values []T) {
	for _, rr := range records {
		if v, ok := rr.(T); ok {
			values = append(values, v)
		}
	}
	return values
}

// addresses returns the IPv4 and IPv6 addresses of a name.
func (r *resolver) addresses(ctx context.Context, name string) (addrs []netip.Addr, err error) {
	v4, err4 := r.ask(ctx, name, dns.TypeA)
	v6, err6 := r.ask(ctx, name, dns.TypeAAAA)
	for _, a := range of[*dns.A](v4) {
		if ip, ok := netip.AddrFromSlice(a.A); ok {
			addrs = append(addrs, ip.Unmap())
		}
	}
	for _, a := range of[*dns.AAAA](v6) {
		if ip, ok := netip.AddrFromSlice(a.AAAA); ok {
			addrs = append(addrs, ip)
		}
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	return nil, errors.Join(err4, err6)
}

// texts returns the TXT records of a name, each with its strings joined.
func (r *resolver) texts(ctx context.Context, name string) (texts []string, err error) {
	records, err := r.ask(ctx, name, dns.TypeTXT)
	for _, t := range of[*dns.TXT](records) {
		texts = append(texts, strings.Join(t.Txt, ""))
	}
	return texts, err
}

// found makes errors as package spf expects them: *net.DNSError.
func found[T any](name string, values []T, err error) ([]T, error) {
	switch {
	case err != nil:
		return nil, &net.DNSError{Err: err.Error(), Name: name, IsTemporary: true}
	case len(values) == 0:
		return nil, &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
	}
	return values, nil
}

func (r *resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	texts, err := r.texts(ctx, name)
	return found(name, texts, err)
}

func (r *resolver) LookupMX(ctx context.Context, name string) (all []*net.MX, err error) {
	records, err := r.ask(ctx, name, dns.TypeMX)
	for _, mx := range of[*dns.MX](records) {
		all = append(all, &net.MX{Host: mx.Mx, Pref: mx.Preference})
	}
	return found(name, all, err)
}

func (r *resolver) LookupIPAddr(ctx context.Context, name string) (all []net.IPAddr, err error) {
	addrs, err := r.addresses(ctx, name)
	for _, a := range addrs {
		all = append(all, net.IPAddr{IP: a.AsSlice()})
	}
	return found(name, all, err)
}

func (r *resolver) LookupAddr(ctx context.Context, addr string) (names []string, err error) {
	reverse, err := dns.ReverseAddr(addr)
	if err != nil {
		return nil, err
	}
	records, err := r.ask(ctx, reverse, dns.TypePTR)
	for _, p := range of[*dns.PTR](records) {
		names = append(names, p.Ptr)
	}
	return found(addr, names, err)
}

// same compares names of hosts.
func same(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

// public reports whether a name can be in the DNS of the Internet (RFC 6761, RFC 6762,
// RFC 8375, and the usual names of private networks).
func public(name string) bool {
	labels := strings.Split(strings.ToLower(strings.TrimSuffix(name, ".")), ".")
	last := labels[len(labels)-1]
	switch {
	case len(labels) < 2, cmp.Or(last, "local") == "local":
		return false
	}
	for _, private := range []string{"localhost", "lan", "internal", "home", "corp", "localdomain", "invalid", "test", "arpa"} {
		if last == private {
			return false
		}
	}
	return true
}
