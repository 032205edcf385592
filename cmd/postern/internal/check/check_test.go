package check

import (
	"strings"
	"testing"

	"postern/cmd/postern/internal/process"
)

func TestFew(t *testing.T) {
	for most, want := range map[int]string{1: "x", 3: "x, x, x", 12: "x, x, x, x, x, x, x, x, x, x and 2 more"} {
		if got := few(strings.Split(strings.Repeat("x", most), "")); got != want {
			t.Errorf("%d: %s", most, got)
		}
	}
}

func TestPortHolder(t *testing.T) {
	if got := portHolder([]process.PortHolder{{PID: 812, Name: "master"}, {PID: 1, Name: "systemd"}}); got != "master (pid 812), systemd (pid 1)" {
		t.Error(got)
	}
	if got := portHolder(nil); !strings.Contains(got, "cannot see") || !strings.Contains(got, "ss -ltnp") {
		t.Error(got)
	}
	if isPostern(process.PortHolder{PID: 812, Name: "master"}) {
		t.Error("isPostern is true for Postfix")
	}
}

func TestDefaultGateways(t *testing.T) {
	const routes = "Iface\tDestination\tGateway \tFlags\n" +
		"eth0\t00000000\t010011AC\t0003\n" +
		"eth0\t000011AC\t00000000\t0001\n"
	got := defaultGateways(routes)
	if len(got) != 1 || got[0].String() != "172.17.0.1/32" {
		t.Errorf("got %v, want 172.17.0.1/32", got)
	}
}
