package netprefix

import (
	"net/netip"
	"testing"
)

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
