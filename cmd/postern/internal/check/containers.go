package check

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"postern/internal/fileperm"
)

// A machine is what shows which networks belong to containers.
type machine struct {
	container bool // this process runs in one
	// routes4 and routes6 are /proc/net/route and /proc/net/ipv6_route.
	routes4, routes6 string
	bridges          []netip.Prefix // of container engines, on their host
}

// thisMachine describes where the process runs. What cannot be read is left out.
func thisMachine() machine {
	cgroup, _ := os.ReadFile("/proc/1/cgroup")
	routes4, _ := os.ReadFile("/proc/net/route")
	routes6, _ := os.ReadFile("/proc/net/ipv6_route")
	return machine{
		container: fileperm.InContainer() || containerGroup(string(cgroup)),
		routes4:   string(routes4), routes6: string(routes6),
		bridges: bridges(),
	}
}

// sharedNetworks returns the addresses that many clients can share: the bridges of container
// engines on a host, and in a container the default gateways, which are the client address
// of connections that a proxy in user space forwards.
func (m *machine) sharedNetworks() []netip.Prefix {
	networks := slices.Clone(m.bridges)
	if m.container {
		networks = append(networks, gateways4(m.routes4)...)
		networks = append(networks, gateways6(m.routes6)...)
	}
	return networks
}

// containerGroup reports whether the control group of the first process is that of a container.
// With cgroup v2, containers usually see "/" only.
func containerGroup(cgroup string) bool {
	return hasAny(cgroup, strings.Contains, "/docker", "/kubepods", "/libpod", "/lxc", "/containerd", "/crio")
}

// bridges returns the networks of container engines on this machine.
func bridges() (networks []netip.Prefix) {
	interfaces, _ := net.Interfaces() // there is no warning for what cannot be listed
	for _, i := range interfaces {
		if !hasAny(i.Name, strings.HasPrefix, "docker", "br-", "podman", "cni", "lxc") {
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

func hasAny(s string, has func(s, part string) bool, parts ...string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return has(s, p) })
}

// gateways4 parses /proc/net/route: interface, destination, gateway and more.
// Addresses are hexadecimal numbers in the byte order of the machine.
func gateways4(routes string) (gateways []netip.Prefix) {
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

// gateways6 parses /proc/net/ipv6_route: destination, length of its prefix, source and its
// length, gateway and more. Addresses are hexadecimal in network byte order.
func gateways6(routes string) (gateways []netip.Prefix) {
	for line := range strings.Lines(routes) {
		fields := strings.Fields(line)
		if len(fields) < 5 || strings.Trim(fields[0], "0") != "" || fields[1] != "00" {
			continue
		}
		var a [16]byte
		b, err := hex.DecodeString(fields[4])
		if err != nil || copy(a[:], b) != len(a) || a == [16]byte{} {
			continue
		}
		gateways = append(gateways, netip.PrefixFrom(netip.AddrFrom16(a), 128))
	}
	return gateways
}
