package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/test/kit"
)

func TestExplainBind(t *testing.T) {
	for cause, want := range map[error]string{
		syscall.EACCES:        "may not bind ports below",
		syscall.EADDRINUSE:    "another server has this port",
		syscall.EADDRNOTAVAIL: "this machine does not have the address",
		syscall.EAFNOSUPPORT:  "no IPv6",
		syscall.EBADF:         "bad file descriptor",
	} {
		if got := ExplainBind(fmt.Errorf("listen: %w", cause)).Error(); !strings.Contains(got, want) {
			t.Errorf("%v: %s", cause, got)
		}
	}
	if ExplainBind(nil) != nil {
		t.Error("an error for none")
	}
	for container, want := range map[bool]string{true: "net.ipv4.ip_unprivileged_port_start=0", false: "AmbientCapabilities=CAP_NET_BIND_SERVICE"} {
		if got := portRemedy(container); !strings.Contains(got, want) {
			t.Errorf("in a container %v: %s", container, got)
		}
	}
}

// A unit gives ports by the capability, also in a drop-in, or by its sockets.
func TestPortUnit(t *testing.T) {
	for _, test := range []struct {
		file, text string
		want       bool
	}{
		{"postern.service", "[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n", true},
		{"postern.service.d/ports.conf", "[Service]\nAmbientCapabilities = CAP_CHOWN CAP_NET_BIND_SERVICE\n", true},
		{"postern.socket", "[Socket]\nListenStream=587\n", true},
		{"postern.service", "[Service]\n# AmbientCapabilities=CAP_NET_BIND_SERVICE\n", false},
		{"postern.service", "[Service]\nAmbientCapabilities=~CAP_NET_BIND_SERVICE\n", false},
		{"postern.service", "[Service]\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n", false},
		{"postfix.service", "[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n", false},
	} {
		folder := t.TempDir()
		file := filepath.Join(folder, test.file)
		kit.Must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		kit.Must(t, os.WriteFile(file, []byte(test.text), 0o644))
		if got := portUnit([]string{filepath.Join(folder, "missing"), folder}); (got == file) != test.want {
			t.Errorf("%s with %q: %q", test.file, test.text, got)
		}
	}
}
