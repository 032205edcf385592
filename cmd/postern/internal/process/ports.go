package process

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A PortHolder is a process that listens on a port.
type PortHolder struct {
	PID  int
	Name string // of its program
}

func (h PortHolder) String() string { return fmt.Sprintf("%s (pid %d)", h.Name, h.PID) }

// PortInUse reports whether a process listens on the port of address. It binds the
// address for a moment. If this user may not bind it, it searches /proc instead, and
// returns the error EACCES if it finds none. See ExplainBind.
func PortInUse(address string) (bool, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case err == nil:
		return false, l.Close()
	case errors.Is(err, syscall.EADDRINUSE):
		return true, nil
	case errors.Is(err, syscall.EACCES) && len(listeningSockets(address)) > 0:
		return true, nil
	}
	return false, err
}

// PortHolders returns the processes that listen on the port of address, as far as
// this user may look into them. Only root sees processes of other users.
func PortHolders(address string) (all []PortHolder) {
	sockets := listeningSockets(address)
	if len(sockets) == 0 {
		return nil
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // fails only for a bad pattern
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil || !slices.Contains(sockets, to) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil || slices.ContainsFunc(all, func(h PortHolder) bool { return h.PID == pid }) {
			continue
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil {
			all = append(all, PortHolder{pid, strings.TrimSpace(string(name))})
		}
	}
	return all
}

// listeningSockets returns the names that /proc/PID/fd has for the sockets that
// listen on the port of address. It returns none on systems without /proc.
func listeningSockets(address string) (all []string) {
	_, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		return nil
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if inode, ok := parseListening(lines.Text(), port); ok {
				all = append(all, "socket:["+inode+"]")
			}
		}
		_ = f.Close()
	}
	return all
}

// parseListening parses a line of /proc/net/tcp (proc_net_tcp(5)): number, local
// address, remote address, state, queues, timers, retransmissions, user, timeout,
// inode. ok is false unless it is a socket that listens on port.
func parseListening(line string, port int) (inode string, ok bool) {
	const listening = "0A"
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != listening {
		return "", false
	}
	return fields[9], strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port))
}
