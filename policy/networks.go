package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Networks are address blocks, in the file a string or an array of strings as
// Postfix has them in mynetworks: "127.0.0.0/8 [::1]/128 192.0.2.7".
type Networks []netip.Prefix

// UnmarshalText takes the networks from a string.
func (n *Networks) UnmarshalText(text []byte) error {
	networks := Networks{}
	for _, field := range fields(string(text)) {
		p, err := parseNetwork(field)
		if err != nil {
			return err
		}
		networks = append(networks, p)
	}
	*n = networks
	return nil
}

// UnmarshalTOML takes the networks from a string or an array of strings.
func (n *Networks) UnmarshalTOML(value any) error {
	text, err := oneString(value)
	if err != nil {
		return err
	}
	return n.UnmarshalText([]byte(text))
}

func parseNetwork(text string) (netip.Prefix, error) {
	bare := withoutBrackets(text)
	if addr, err := netip.ParseAddr(bare); err == nil {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(bare)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is neither an address (192.0.2.7) nor a network (192.0.2.0/24, [2001:db8::]/32)", text)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q: write it as an IPv4 network", text)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has address bits behind its length, did you mean %q?", text, p.Masked())
	}
	return p, nil
}

// withoutBrackets takes those of "[::1]/128" off.
func withoutBrackets(network string) string {
	addr, length, closed := strings.Cut(network, "]")
	if !closed || !strings.HasPrefix(addr, "[") {
		return network
	}
	return addr[1:] + length
}

// contain tells whether addr is in one of the networks. An IPv4 address is one
// also when it comes mapped into IPv6.
func (n Networks) contain(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range n {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// Networks as short as these are the Internet, not anybody's own. The longest
// blocks of private addresses are 10.0.0.0/8 and fc00::/7.
const (
	minBits4 = 8
	minBits6 = 7
)

func tooWide(n netip.Prefix) bool {
	if n.Addr().Is4() {
		return n.Bits() < minBits4
	}
	return n.Bits() < minBits6
}
