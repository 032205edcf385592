package check

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"postern/cmd/postern/internal/config"
	"postern/server"
)

// names checks the name of the server. Many servers refuse clients whose name is not fully
// qualified (Postfix reject_non_fqdn_helo_hostname).
func (c *checker) names() {
	name, _ := c.cfg.Server.Names()
	const remedy = `set server.hostname to the name that clients connect to, such as "mail.example.org"`
	switch {
	case name == "localhost" || strings.HasPrefix(name, "localhost."):
		c.report.Warn("hostname", fmt.Sprintf("the name of the server is %q, which every machine has, so other servers can refuse its mail\n%s", name, remedy))
	case strings.Contains(name, "."):
		c.report.OK("hostname", name)
	case c.cfg.Server.Hostname == "":
		c.report.Warn("hostname", fmt.Sprintf("server.hostname is not set, and the name of this machine, %q, is not fully qualified, so other servers can refuse its mail\n%s", name, remedy))
	default:
		c.report.Warn("hostname", fmt.Sprintf("server.hostname is %q, which is not fully qualified, so other servers can refuse its mail\n%s", name, remedy))
	}
}

// modes checks that each registered port has the mode that clients expect there.
func (c *checker) modes() {
	for i := range c.cfg.Listeners {
		l := &c.cfg.Listeners[i]
		for _, address := range l.Address {
			if why := unusualMode(l, address); why != "" {
				c.report.Warn("mode", fmt.Sprintf("%s (listener %s): %s", address, l.Name, why))
			}
		}
	}
}

// unusualMode returns what clients experience, and the next step, if the port of an address
// is registered for the other mode (RFC 6409, RFC 8314, section 3.3).
func unusualMode(l *config.Listener, address string) string {
	_, port, _ := net.SplitHostPort(address)
	right := map[string]server.Mode{"587": server.STARTTLS, "465": server.TLS}
	mode, ok := right[port]
	if !ok || mode == l.Mode {
		return ""
	}
	why := `port 465 is for TLS from the first byte, so clients wait in vain for an answer to their handshake`
	if mode == server.STARTTLS {
		why = `port 587 is for STARTTLS, so clients wait in vain for a greeting`
	}
	other := slices.ContainsFunc(l.Address, func(a string) bool {
		_, p, _ := net.SplitHostPort(a)
		m, ok := right[p]
		return ok && m == l.Mode
	})
	if other { // one listener has both ports
		return fmt.Sprintf("%s\nmove this address to a [[listener]] of its own, with mode = %q", why, mode)
	}
	return fmt.Sprintf("%s\nset mode = %q for this listener", why, mode)
}
