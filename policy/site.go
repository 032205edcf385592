package policy

import (
	"net/netip"
	"strings"
)

// A site is what the restrictions know of the place where they work: whom it
// trusts, which mail is its own, and how it asks the DNS. It is immutable.
type site struct {
	networks Networks
	local    domainSet // final destination here: Postfix's mydestination
	relay    domainSet
	dns      *dns
}

func newSite(cfg Config, resolver Resolver) *site {
	return &site{
		networks: cfg.MyNetworks,
		local:    newDomainSet(cfg.LocalDomains),
		relay:    newDomainSet(cfg.RelayDomains),
		dns:      newDNS(resolver),
	}
}

// stranger tells whether nobody vouches for the client.
func (s *site) stranger(r *Request) bool {
	return r.Login == "" && !s.trusts(r.Remote.Addr())
}

// trusts tells whether addr is in mynetworks.
func (s *site) trusts(addr netip.Addr) bool { return s.networks.contain(addr) }

// authorized tells whether mail for the recipient is ours to take.
func (s *site) authorized(recipient string) bool {
	local, domain := splitAddress(recipient)
	// The next hop, which trusts us, may follow a route that the sender has
	// hidden in the local part: victim%example.com@example.org. Postfix is
	// as wary (allow_untrusted_routing = no).
	if strings.ContainsAny(local, "@%!") {
		return false
	}
	name, ok := asciiDomain(domain)
	return ok && (s.local.contains(name) || s.relay.contains(name))
}

// isLocal tells whether this site is the final destination for the address.
func (s *site) isLocal(address string) bool {
	_, domain := splitAddress(address)
	name, ok := asciiDomain(domain)
	return ok && s.local.contains(name)
}
