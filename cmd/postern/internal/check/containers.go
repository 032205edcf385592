package check

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"postern/internal/fileperm"
)

// containerNetworks returns addresses that many clients can share: the bridges of
// container engines on a host, and in a container the default gateway, which is the
// client address of connections that a proxy in user space forwards.
func containerNetworks() (networks []netip.Prefix) {
	interfaces, _ := net.Interfaces() // there is no warning for what cannot be listed
	for _, i := range interfaces {
		if !hasAnyPrefix(i.Name, "docker", "br-", "podman", "cni", "lxc") {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				networks = append(networks, p.Masked())
			}
		}
	}
	if fileperm.InContainer() {
		routes, _ := os.ReadFile("/proc/net/route") // Linux only
		networks = append(networks, defaultGateways(string(routes))...)
	}
	return networks
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// defaultGateways parses /proc/net/route: interface, destination, gateway and more.
// Addresses are hexadecimal numbers in the byte order of the machine.
func defaultGateways(routes string) (gateways []netip.Prefix) {
	for line := range strings.Lines(routes) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[1] != "00000000" {
			continue
		}
		n, err := strconv.ParseUint(fields[2], 16, 32)
		if err != nil || n == 0 {
			continue
		}
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], uint32(n))
		gateways = append(gateways, netip.PrefixFrom(netip.AddrFrom4(a), 32))
	}
	return gateways
}
