package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// A Resolver asks the DNS; *net.Resolver is one. It is called by many sessions
// at once.
type Resolver interface {
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	// lookupTimeout bounds all questions about one domain. A client waits two
	// minutes for an answer at most (RFC 6409, section 5.3).
	lookupTimeout = 10 * time.Second
	lookupsAtOnce = 100 // each one holds a socket
)

// A dns asks a resolver within bounds.
type dns struct {
	resolver Resolver
	slots    chan struct{}
}

func newDNS(r Resolver) *dns {
	return &dns{resolver: r, slots: make(chan struct{}, lookupsAtOnce)}
}

// What the DNS says of a mail domain.
type domainState uint8

const (
	domainUnclear domainState = iota // nobody could tell; the error says why
	domainExists
	domainUnknown
	domainNullMX // it exists and takes no mail (RFC 7505)
)

// mailDomain tells whether mail for a domain, as asciiDomain spells it, could
// go anywhere: whether there is an MX record or, as RFC 5321, section 5.1, has
// it, an A or AAAA record.
func (d *dns) mailDomain(ctx context.Context, domain string) (domainState, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return domainUnclear, fmt.Errorf("look up %s: %d other lookups are waiting for the DNS: %w", domain, lookupsAtOnce, ctx.Err())
	}
	return d.lookup(ctx, domain+".") // rooted: the search list of resolv.conf is not for mail
}

// lookup asks for an address also when the MX was not to be had: one that is
// found settles the matter.
func (d *dns) lookup(ctx context.Context, name string) (domainState, error) {
	mx, errMX := d.resolver.LookupMX(ctx, name)
	// The resolver returns the good records along with its complaint about
	// the bad ones, so they are looked at first.
	if len(mx) == 1 && mx[0].Host == "." {
		return domainNullMX, nil // RFC 7505, section 3
	}
	if len(mx) > 0 {
		return domainExists, nil
	}
	addrs, errIP := d.resolver.LookupNetIP(ctx, "ip", name)
	switch {
	case errIP == nil && len(addrs) > 0:
		return domainExists, nil
	case noSuchRecord(errMX) && noSuchRecord(errIP):
		return domainUnknown, nil
	}
	return domainUnclear, errors.Join(errMX, errIP)
}

// noSuchRecord tells whether the DNS has answered that there is nothing.
func noSuchRecord(err error) bool {
	if err == nil {
		return true // an empty answer
	}
	var failed *net.DNSError
	return errors.As(err, &failed) && failed.IsNotFound
}
