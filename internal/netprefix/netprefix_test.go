package netprefix

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1":        "192.0.2.1/32",
		"192.0.2.0/24":     "192.0.2.0/24",
		"::ffff:192.0.2.1": "192.0.2.1/32",
		"2001:db8::25":     "2001:db8::25/128",
		"[::1]":            "::1/128",
		"[2001:db8::]/32":  "2001:db8::/32",
		"fe80::/10":        "fe80::/10",
	} {
		if p, err := Parse(text); err != nil || p != netip.MustParsePrefix(want) {
			t.Errorf("%s: %v, %v, want %s", text, p, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                     "neither an address nor a network",
		"office":               "neither an address nor a network",
		"192.0.2.0/33":         "neither an address nor a network",
		"19[2.0.2.1":           "neither an address nor a network",
		"[192.0.2.1":           "neither an address nor a network",
		"fe80::1%eth0":         "neither an address nor a network",
		"fe80::1%eth0/64":      "neither an address nor a network",
		"::ffff:192.0.2.0/120": "write it as an IPv4 network",
		"192.0.2.1/24":         "write 192.0.2.0/24 for the network, or 192.0.2.1 for the address",
		"[2001:db8::1]/32":     "write 2001:db8::/32 for the network, or 2001:db8::1 for the address",
	} {
		if p, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) || p != (netip.Prefix{}) {
			t.Errorf("%q: %v, %v, want an error with %q", text, p, err, want)
		}
	}
}

func TestClient(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":           "192.0.2.1/32",
		"::ffff:192.0.2.1":    "192.0.2.1/32",
		"2001:db8:1:2:3:4::5": "2001:db8:1:2::/64",
		"fe80::1%eth0":        "fe80::/64",
	} {
		if got := Client(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("Client(%s) = %s, want %s", addr, got, want)
		}
	}
	if got := Client(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("Client of the zero Addr = %v, want the zero Prefix", got)
	}
}

func TestNetwork(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":           "192.0.2.0/24",
		"::ffff:192.0.2.1":    "192.0.2.0/24",
		"2001:db8:1:2:3:4::5": "2001:db8:1::/48",
		"fe80::1%eth0":        "fe80::/48",
	} {
		if got := Network(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("Network(%s) = %s, want %s", addr, got, want)
		}
	}
	if got := Network(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("Network of the zero Addr = %v, want the zero Prefix", got)
	}
}
