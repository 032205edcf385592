package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/config"
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
within two seconds. The exit status is 0 if that succeeds and 1 if not, as
Docker's HEALTHCHECK expects. No password is sent, and the certificate is not
verified.`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			probes := []probe{{address: address, tls: implicit}}
			if address == "" {
				var err error
				if probes, err = probesOf(file); err != nil {
					return err
				}
			}
			return checkHealth(cmd.Context(), probes)
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

// probesOf returns the probes for the first listener of a configuration.
func probesOf(file string) ([]probe, error) {
	cfg, err := config.LoadOnce(file)
	if err != nil {
		return nil, process.WithStatus(process.ExitConfig, err)
	}
	l := cfg.Listeners[0]
	var probes []probe
	for _, a := range localAddresses(l.Address[0]) {
		// A connection to an address of this machine comes from the same address.
		proxied := slices.ContainsFunc(cfg.Server.ProxyTrusted, func(p netip.Prefix) bool { return p.Contains(a.Addr()) })
		probes = append(probes, probe{a.String(), l.Mode == server.TLS, proxied})
	}
	return probes, nil
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
