package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/control"
	"postern/cmd/postern/internal/dialogue"
	"postern/cmd/postern/internal/process"
	"postern/server"
)

// healthTime bounds the whole check. Docker and systemd run it often.
const healthTime = 2 * time.Second

func healthCommand() *cobra.Command {
	var file, address string
	var implicit bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Check whether the server is running",
		Long: `Connects to the server's first listener, starts TLS, and sends EHLO and QUIT, all
within two seconds. The running server is asked for that listener through its control
socket (server.control), so a mistake in the file that a reload has refused does not
matter; without the socket the file has the listener. The exit status is 0 if that succeeds and 1 if not, as
Docker's HEALTHCHECK expects. No password is sent, and the certificate is not
verified.`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			h := health{probes: []probe{{address: address, tls: implicit}}}
			if address == "" {
				var err error
				if h, err = healthOf(cmd.Context(), file); err != nil {
					return err
				}
			}
			if err := checkHealth(cmd.Context(), h.probes); err != nil || h.note == "" {
				return err
			}
			return printSafely(cmd.OutOrStdout(), func(out io.Writer) error {
				_, err := fmt.Fprintln(out, h.note)
				return err
			})
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().StringVar(&address, "address", "", "`host:port` to connect to instead of the first listener of the configuration")
	cmd.Flags().BoolVar(&implicit, "tls", false, "with --address: TLS without STARTTLS, as on port 465")
	return cmd
}

// checkHealth returns nil if one probe succeeds. A listener without an address has two
// probes, for IPv4 and IPv6, and a container may have only one of these.
func checkHealth(ctx context.Context, probes []probe) error {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	var errs []error
	for _, p := range probes {
		err := p.run(ctx)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", p.address, err))
	}
	return fmt.Errorf("the server is not healthy: %w", errors.Join(errs...))
}

// A probe connects to one address of a listener from this machine.
type probe struct {
	address string
	tls     bool // without STARTTLS
	proxied bool // the server expects a PROXY header
}

// run sends EHLO over TLS and QUIT before the deadline of ctx.
func (p probe) run(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if p.proxied { // LOCAL: a connection of the proxy itself, such as a health check
		if _, err := (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL}).WriteTo(conn); err != nil {
			return err
		}
	}
	// The address differs from the name in the certificate, and nothing secret is sent.
	config := &tls.Config{InsecureSkipVerify: true}
	if p.tls {
		conn = tls.Client(conn, config)
	}
	d, err := dialogue.Open(conn, deadline, io.Discard)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Command(250, "EHLO localhost"); err != nil {
		return err
	}
	if !p.tls {
		if err := d.StartTLS(config, "localhost"); err != nil {
			return err
		}
	}
	return d.Quit()
}

// A health is what is known about the server that has to be probed.
type health struct {
	probes []probe
	note   string // about a running server that is healthy all the same; may be empty
}

// healthOf asks the running server for its first listener. Without a control socket the
// configuration file has it.
func healthOf(ctx context.Context, file string) (health, error) {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	path, configured := config.FindControl(file)
	if path != "" {
		lines, err := control.Ask(ctx, path, "health")
		running := parseHealth(lines)
		switch {
		case err == nil && (configured || running.isOf(file)) && len(running.address) > 0:
			return running.health(), nil
		case err != nil && configured && !errors.Is(err, control.ErrNoServer):
			return health{}, fmt.Errorf("the server is not healthy: %w", err)
		}
	}
	cfg, err := config.LoadOnce(file)
	if err != nil {
		return health{}, process.WithStatus(process.ExitConfig, err)
	}
	l := cfg.Listeners[0]
	return health{probes: probesOf(l.Address[0], l.Mode == server.TLS, cfg.Server.ProxyTrusted)}, nil
}

// A runningServer is the answer of a control socket.
type runningServer struct {
	config, mode, address, refused string
	proxies                        []netip.Prefix
}

// parseHealth ignores keys that a later version sends.
func parseHealth(lines []string) (r runningServer) {
	for _, line := range lines {
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "config":
			r.config = value
		case "listener":
			r.mode, r.address, _ = strings.Cut(value, " ")
		case "proxy_trusted":
			if network, err := netip.ParsePrefix(value); err == nil {
				r.proxies = append(r.proxies, network)
			}
		case "refused":
			r.refused = value
		}
	}
	return r
}

// isOf reports whether the server has been started with the file. The default path of the
// socket may belong to another server on this machine.
func (r runningServer) isOf(file string) bool {
	path, err := filepath.Abs(file)
	return err == nil && path == r.config
}

func (r runningServer) health() health {
	h := health{probes: probesOf(r.address, r.mode == server.TLS.String(), r.proxies)}
	if r.refused != "" {
		h.note = "the server is healthy with its old configuration; the last reload was refused: " + r.refused
	}
	return h
}

// probesOf returns the probes for the address of a listener.
func probesOf(address string, implicit bool, proxies []netip.Prefix) (probes []probe) {
	for _, a := range localAddresses(address) {
		// A connection to an address of this machine comes from the same address.
		proxied := slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a.Addr()) })
		probes = append(probes, probe{a.String(), implicit, proxied})
	}
	return probes
}

// localAddresses returns the addresses to which this machine can connect for the
// address of a listener, which is valid.
func localAddresses(bound string) []netip.AddrPort {
	host, port, _ := net.SplitHostPort(bound)
	n, _ := strconv.ParseUint(port, 10, 16)
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, uint16(n)) }
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil: // no host: all addresses
		return []netip.AddrPort{at(v4), at(v6)}
	case addr.IsUnspecified() && addr.Is4():
		return []netip.AddrPort{at(v4)}
	case addr.IsUnspecified():
		return []netip.AddrPort{at(v6), at(v4)}
	}
	return []netip.AddrPort{at(addr)}
}
