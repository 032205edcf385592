package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"postern/policy/lookup"
)

// A Resolver asks the DNS; *net.Resolver is one. Many sessions call it at once.
type Resolver interface {
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// An Env is what restrictions are built with. The caller of [NewSet] sets the exported fields
// only; each Set has a copy with its own networks, domains and tables.
type Env struct {
	Resolver Resolver // for the restrictions that ask the DNS

	networks Networks
	local    domainSet // final destination here: Postfix's mydestination
	relay    domainSet
	slots    chan struct{} // for DNS lookups
	tables   map[string]lookup.Table
	// sublist is parseSublist: a constructor in the table of restrictions cannot refer to
	// that table.
	sublist func(b base, value string) (rule, error)
}

// forSet returns a copy for one Set.
func (e *Env) forSet(cfg Config) *Env {
	return &Env{
		Resolver: e.Resolver,
		networks: cfg.MyNetworks,
		local:    newDomainSet(cfg.LocalDomains),
		relay:    newDomainSet(cfg.RelayDomains),
		slots:    make(chan struct{}, maxLookups),
		tables:   make(map[string]lookup.Table),
		sublist:  parseSublist,
	}
}

// openTable opens the table of that name, or returns the one that is open already. The Set
// closes it.
func (e *Env) openTable(name string) (lookup.Table, error) {
	if t := e.tables[name]; t != nil {
		return t, nil
	}
	spec, err := lookup.Parse(name)
	if err != nil {
		return nil, err
	}
	t, err := spec.Open()
	if err != nil {
		return nil, err
	}
	e.tables[name] = t
	return t, nil
}

// unauthorized reports whether the client is neither authenticated nor in mynetworks.
func (e *Env) unauthorized(r *Request) bool {
	return r.Login == "" && !e.inMyNetworks(r)
}

// inMyNetworks reports whether the client is in mynetworks. A client of which only the proxy's
// own address is known is not: anybody may be behind it.
func (e *Env) inMyNetworks(r *Request) bool {
	return !r.AtProxy && e.networks.contain(r.Remote.Addr())
}

// authDestination reports whether the recipient's domain is in local_domains or relay_domains.
func (e *Env) authDestination(recipient string) bool {
	local, domain := splitAddress(recipient)
	if sourceRouted(local) {
		return false
	}
	name, ok := asciiDomain(domain)
	return ok && (e.local.contains(name) || e.relay.contains(name))
}

// sourceRouted reports whether a local part contains a route: victim%example.com@example.org.
// The next hop, which trusts this server, may follow it. Postfix distrusts it too
// (allow_untrusted_routing = no).
func sourceRouted(local string) bool { return strings.ContainsAny(local, "@%!") }

// isLocal reports whether this server is the final destination for the address.
func (e *Env) isLocal(address string) bool {
	_, domain := splitAddress(address)
	name, ok := asciiDomain(domain)
	return ok && e.local.contains(name)
}

// A domainSet holds domains as asciiDomain returns them; ".example.org" matches everything
// below example.org.
type domainSet map[string]struct{}

func newDomainSet(domains Domains) domainSet {
	set := make(domainSet, len(domains))
	for _, d := range domains {
		set[d] = struct{}{}
	}
	return set
}

func (s domainSet) contains(name string) bool {
	if _, ok := s[name]; ok {
		return true
	}
	for i := 1; i < len(name); i++ {
		if name[i] != '.' {
			continue
		}
		if _, ok := s[name[i:]]; ok {
			return true
		}
	}
	return false
}

const (
	// lookupTimeout bounds all DNS queries for one domain. A client waits at most two
	// minutes for a reply (RFC 6409, section 5.3).
	lookupTimeout = 10 * time.Second
	maxLookups    = 100 // at once; each needs a socket
)

// A domainState is what the DNS returns for a mail domain.
type domainState uint8

const (
	domainUnclear domainState = iota // no answer; the error has the reason
	domainExists
	domainUnknown
	domainNullMX // it exists and accepts no mail (RFC 7505)
)

// mailDomain finds out whether a domain, in the form that asciiDomain returns, can receive
// mail: whether it has an MX record or, by RFC 5321, section 5.1, an A or AAAA record.
func (e *Env) mailDomain(ctx context.Context, domain string) (domainState, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return domainUnclear, fmt.Errorf("look up %s: %d other lookups are waiting for the DNS: %w", domain, maxLookups, ctx.Err())
	}
	name := domain + "." // rooted: the search list of resolv.conf is not for mail
	mx, errMX := e.Resolver.LookupMX(ctx, name)
	// The resolver returns the valid records together with an error about the invalid ones,
	// so the records come first.
	if len(mx) == 1 && mx[0].Host == "." {
		return domainNullMX, nil // RFC 7505, section 3
	}
	if len(mx) > 0 {
		return domainExists, nil
	}
	// Even if the MX lookup failed, an address that is found decides.
	addrs, errIP := e.Resolver.LookupNetIP(ctx, "ip", name)
	switch {
	case errIP == nil && len(addrs) > 0:
		return domainExists, nil
	case noSuchRecord(errMX) && noSuchRecord(errIP):
		return domainUnknown, nil
	}
	return domainUnclear, errors.Join(errMX, errIP)
}

// noSuchRecord reports whether the DNS has answered that there is no such record.
func noSuchRecord(err error) bool {
	if err == nil {
		return true // an empty answer
	}
	var failed *net.DNSError
	return errors.As(err, &failed) && failed.IsNotFound
}
