package process

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"postern/internal/fileperm"
)

// ExplainBind adds the cause and the next step to an error of net.Listen for a TCP address.
// It returns an unknown error unchanged.
func ExplainBind(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; another server has this port: see \"ss -ltnp\", "+
			"and if it is Postfix, remove submission and submissions from its master.cf", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w; user %s may not bind ports below %s\n%s", err, CurrentAccount().Name, firstFreePort(), portRemedy(fileperm.InContainer()))
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w; this machine does not have the address\nset address to one that \"ip address\" shows, or to the port alone, such as \":587\", for all", err)
	case errors.Is(err, syscall.EAFNOSUPPORT):
		return fmt.Errorf("%w; this system has no IPv6\nset address to one of IPv4, such as \"0.0.0.0:587\"", err)
	}
	return err
}

// firstFreePort returns the first port that any user may bind (ip(7), from Linux 4.11 on).
func firstFreePort() string {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return "1024"
	}
	return strings.TrimSpace(string(text))
}

// portRemedy returns how the process gets the right to bind a low port where it runs.
func portRemedy(container bool) string {
	if container {
		return "run the container with --sysctl net.ipv4.ip_unprivileged_port_start=0 (Compose: sysctls; Kubernetes: securityContext.sysctls)"
	}
	return "start postern by systemd, with AmbientCapabilities=CAP_NET_BIND_SERVICE as in docs/systemd/postern.service,\n" +
		"or with the sockets of docs/systemd/postern.socket"
}

// unitFolders are where systemd looks for units (systemd.unit(5)).
var unitFolders = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// PortUnit returns the path of a unit of systemd that opens low ports for postern, or gives
// it the right to, or "". A check that an administrator starts as the user of the server has
// fewer rights than the service.
func PortUnit() string {
	if fileperm.InContainer() {
		return ""
	}
	return portUnit(unitFolders)
}

func portUnit(folders []string) string {
	for _, folder := range folders {
		for _, pattern := range []string{"postern*.service", "postern*.service.d/*.conf", "postern*.socket"} {
			files, _ := filepath.Glob(filepath.Join(folder, pattern)) // the pattern is valid
			for _, file := range files {
				if givesPorts(file) {
					return file
				}
			}
		}
	}
	return ""
}

// givesPorts reports whether a unit has a socket, or the capability for low ports.
func givesPorts(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		switch strings.TrimSpace(key) {
		case "ListenStream":
			return true
		case "AmbientCapabilities":
			if strings.Contains(value, "CAP_NET_BIND_SERVICE") && !strings.HasPrefix(strings.TrimSpace(value), "~") {
				return true
			}
		}
	}
	return false
}
