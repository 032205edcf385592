package main

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// containerNetworks are the addresses behind which many clients can hide: the
// bridges of container engines on a host, and in a container its gateway,
// from which everything comes that was forwarded by a proxy in user space.
func containerNetworks() []netip.Prefix {
	networks := bridges()
	if inContainer() {
		routes, _ := os.ReadFile("/proc/net/route") // not there on other systems
		networks = append(networks, defaultGateways(string(routes))...)
	}
	return networks
}

func bridges() (networks []netip.Prefix) {
	all, _ := net.Interfaces() // what cannot be listed cannot be warned of
	for _, i := range all {
		if !isBridge(i.Name) {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				networks = append(networks, p.Masked())
			}
		}
	}
	return networks
}

func isBridge(name string) bool {
	return slices.ContainsFunc([]string{"docker", "br-", "podman", "cni", "lxc"}, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

// inContainer looks for what Docker and Podman leave in theirs.
func inContainer() bool {
	return slices.ContainsFunc([]string{"/.dockerenv", "/run/.containerenv"}, func(mark string) bool {
		_, err := os.Stat(mark)
		return err == nil
	})
}

// defaultGateways reads /proc/net/route: interface, destination, gateway and
// more, the addresses as hexadecimal numbers in the byte order of the machine.
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
