// Package netprefix reads networks in the configuration and decides which addresses count
// as one client, or as one network.
package netprefix

import (
	"fmt"
	"net/netip"
	"strings"
)

// Parse reads an address ("192.0.2.1", "2001:db8::1"), which is a network of one, or a
// network ("192.0.2.0/24", "2001:db8::/32"). An IPv6 address may be in brackets, as in
// Postfix's "[::1]/128".
func Parse(text string) (netip.Prefix, error) {
	bare := text
	if addr, length, closed := strings.Cut(text, "]"); closed && strings.HasPrefix(addr, "[") {
		bare = addr[1:] + length
	}
	if addr, err := netip.ParseAddr(bare); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(bare)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network; write it as 192.0.2.7, 192.0.2.0/24 or [2001:db8::]/32", text)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q: write it as an IPv4 network, such as 192.0.2.0/24", text)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has address bits after its prefix length; write %s for the network, or %s for the address",
			text, p.Masked(), p.Addr())
	}
	return p, nil
}

// Client returns the prefix that limits and penalties count as one client: an IPv4
// address, or the /64 of an IPv6 address, which is the smallest network that a
// subscriber gets (RFC 6177). An IPv4-mapped IPv6 address counts as IPv4, and the
// zone is ignored. The zero Addr gives the zero Prefix.
func Client(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // an error only for the zero Addr
	return p
}

// Network returns the prefix that shares of the server count as one network: the /24 of an
// IPv4 address, or the /48 of an IPv6 address, which is what a site gets (RFC 6177). An
// attacker has many addresses in few networks. The zero Addr gives the zero Prefix.
func Network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, _ := a.Prefix(bits) // an error only for the zero Addr
	return p
}
