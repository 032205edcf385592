// Package netprefix decides which addresses count as one client.
package netprefix

import "net/netip"

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
