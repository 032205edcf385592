package main

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

	"postern/cmd/postern/internal/config"
)

// ports tries out the addresses of the listeners. One that is taken is no failure
// of the configuration: Postfix may have it until the day of the change, or postern
// while it runs.
func (c *checkup) ports(cfg *config.Config) {
	for i := range cfg.Listeners {
		l := &cfg.Listeners[i]
		for _, address := range l.Address {
			c.port(fmt.Sprintf("%s (listener %s)", address, l.Name), address)
		}
	}
}

func (c *checkup) port(what, address string) {
	taken, err := inUse(address)
	if err != nil || !taken {
		c.result("port", what+" is free", err)
		return
	}
	holders := holdersOf(address)
	if slices.ContainsFunc(holders, holder.isPostern) {
		c.result("port", fmt.Sprintf("%s is postern's already: %s", what, listOf(holders)), nil)
		return
	}
	c.warn("port", fmt.Sprintf("%s is in use by %s\nend that before postern starts; if it is Postfix, take submission and "+
		"submissions out of its master.cf", what, stranger(holders)))
}

// stranger says who is in the way, as far as that is known.
func stranger(holders []holder) string {
	if len(holders) == 0 {
		return fmt.Sprintf("somebody: who, is not known to user %s (see \"ss -ltnp\" as root), and it may be postern", currentAccount().name)
	}
	return listOf(holders)
}

// inUse binds the address for a moment. Who may not bind it looks whether
// anybody listens at its port.
func inUse(address string) (bool, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case err == nil:
		return false, l.Close()
	case errors.Is(err, syscall.EADDRINUSE):
		return true, nil
	case errors.Is(err, syscall.EACCES):
		return len(listeningSockets(address)) > 0, nil
	}
	return false, err
}

// A holder is a process that has a socket open.
type holder struct {
	pid  int
	name string // of its program
}

func (h holder) isPostern() bool { return strings.HasPrefix(h.name, "postern") }

func listOf(all []holder) string {
	var texts []string
	for _, h := range all {
		texts = append(texts, fmt.Sprintf("%s (pid %d)", h.name, h.pid))
	}
	return few(texts)
}

// holdersOf finds who listens at the port of an address, as far as this user may
// look.
func holdersOf(address string) (all []holder) {
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
		if err != nil || slices.ContainsFunc(all, func(h holder) bool { return h.pid == pid }) {
			continue
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil {
			all = append(all, holder{pid, strings.TrimSpace(string(name))})
		}
	}
	return all
}

// listeningSockets finds the sockets that listen at the port of an address, by
// the names that /proc has for them. There are none where there is no /proc.
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
			if inode, ok := listeningAt(lines.Text(), port); ok {
				all = append(all, "socket:["+inode+"]")
			}
		}
		_ = f.Close()
	}
	return all
}

// listeningAt reads a line of /proc/net/tcp (proc_net_tcp): number, local address,
// remote address, state, queues, timers, retransmissions, user, timeout, inode.
func listeningAt(line string, port int) (inode string, ok bool) {
	const listening = "0A"
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != listening {
		return "", false
	}
	return fields[9], strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port))
}
