package check

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"postern/cmd/postern/internal/apptest"
)

const routes4 = "Iface\tDestination\tGateway \tFlags\n" +
	"eth0\t00000000\t010011AC\t0003\n" +
	"eth0\t000011AC\t00000000\t0001\n"

const routes6 = "fd170000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n" +
	"00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd170000000000000000000000000001 00000400 00000002 00000000 00000003 eth0\n" +
	"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n"

func TestSharedNetworks(t *testing.T) {
	bridge := netip.MustParsePrefix("172.18.0.0/16")
	for _, c := range []struct {
		name string
		machine
		want string
	}{
		{"a machine", machine{routes4: routes4, routes6: routes6}, "[]"},
		{"a host of containers", machine{routes4: routes4, bridges: []netip.Prefix{bridge}}, "[172.18.0.0/16]"},
		{"a container", machine{container: true, routes4: routes4, routes6: routes6}, "[172.17.0.1/32 fd17::1/128]"},
		{"a container without a network", machine{container: true, routes4: "Iface\n\n", routes6: "x 00\n0 00 0 0 zz\n"}, "[]"},
	} {
		if got := fmt.Sprint(c.sharedNetworks()); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestContainerGroup(t *testing.T) {
	for cgroup, want := range map[string]bool{
		"":                 false,
		"0::/init.scope\n": false,
		"0::/\n":           false,
		"0::/user.slice/user-1000.slice/session-2.scope\n":                              false,
		"12:cpu,cpuacct:/docker/0123456789abcdef\n11:memory:/docker/0123456789abcdef\n": true,
		"0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-0123.scope\n":       true,
		"0::/machine.slice/libpod-0123.scope/container\n":                               true,
	} {
		if got := containerGroup(cgroup); got != want {
			t.Errorf("%q: %v", cgroup, got)
		}
	}
}

// In a container, check warns of a gateway in mynetworks if a policy uses mynetworks, and names
// the next step.
func TestGatewayInMyNetworks(t *testing.T) {
	inside := machine{container: true, routes4: routes4, routes6: routes6}
	const anybody = "[[listener]]\nname = \"printers\"\naddress = [\"127.0.0.1:0\"]\nrequire_auth = false\n"
	for _, c := range []struct {
		name string
		machine
		networks, recipient, more string
		want                      string // a part of the warning; empty for none
	}{
		{"gateway", inside, "172.16.0.0/12", "permit_mynetworks, reject", "", "covers a container gateway, 172.17.0.1/32"},
		{"gateway with IPv6", inside, "fd17::/64", "permit_mynetworks, reject", "", "covers a container gateway, fd17::1/128"},
		{"end of the list", inside, "172.17.0.0/24", "reject_unauth_destination", "", "the end of recipient permits all of them without a login; remove it"},
		{"table", inside, "172.17.0.0/24", "check_sender_access inline:{{example.net=permit_mynetworks, reject}}, permit_auth_destination, reject", "", "permit_mynetworks in check_sender_access inline:"},
		{"proxy", machine{}, "192.0.2.0/24", "permit_mynetworks, reject", "[server]\nproxy_trusted = [\"192.0.2.5/32\"]\n", "covers a trusted proxy, 192.0.2.5/32"},
		{"not in a container", machine{routes4: routes4}, "172.16.0.0/12", "permit_mynetworks, reject", "", ""},
		{"another network", inside, "172.17.0.2", "permit_mynetworks, reject", "", ""},
		{"not used", inside, "172.16.0.0/12", "permit_auth_destination, reject", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := apptest.New(t)
			s.Configure(t, fmt.Sprintf("%spolicy.mynetworks = %q\npolicy.local_domains = \"example.org\"\npolicy.recipient = %q\n", anybody, c.networks, c.recipient))
			if c.more != "" {
				s.Replace(t, "[server]\n", c.more)
			}
			var out strings.Builder
			runOn(t.Context(), c.machine, s.Config(), Options{}, NewReport(&out, false))
			got := strings.Contains(out.String(), "whose address many clients share")
			if got != (c.want != "") || !strings.Contains(out.String(), c.want) {
				t.Errorf("want %q in\n%s", c.want, out.String())
			}
		})
	}
}
