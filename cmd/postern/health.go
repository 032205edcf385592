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

	"postern/cmd/postern/internal/process"
	"postern/server"
)

// healthTime bounds the whole check; Docker and systemd ask often.
const healthTime = 2 * time.Second

func healthCommand() *cobra.Command {
	var config, address string
	var implicit bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the running server whether it is well",
		Long: `Connects to the server's own listener, goes to TLS, says EHLO and QUIT, all within
two seconds. The exit status is 0 if all went well and 1 if not, as Docker's
HEALTHCHECK wants it. No password is used and the certificate is not verified.`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			doors := []door{{address: address, tls: implicit}}
			if address == "" {
				var err error
				if doors, err = ownDoors(config); err != nil {
					return err
				}
			}
			return knockAny(cmd.Context(), doors)
		},
	}
	configFlag(cmd, &config)
	cmd.Flags().StringVar(&address, "address", "", "`host:port` to ask instead of the first listener of the configuration")
	cmd.Flags().BoolVar(&implicit, "tls", false, "with --address: TLS from the first byte on, as on port 465")
	return cmd
}

// A door is one address of a listener, as a client on this machine reaches it.
type door struct {
	address string
	tls     bool // from the first byte on
	proxied bool // wants a PROXY header first
}

// knock goes through the door, says EHLO over TLS, and leaves, all before the
// deadline of ctx.
func (k door) knock(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", k.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if k.proxied {
		// "LOCAL" is the word for a health check that speaks for nobody.
		if _, err := (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL}).WriteTo(conn); err != nil {
			return err
		}
	}
	return k.converse(conn, deadline)
}

func (k door) converse(conn net.Conn, deadline time.Time) error {
	if k.tls {
		conn = tls.Client(conn, ownCertificate())
	}
	d, err := newDialogue(conn, deadline, io.Discard)
	if err != nil {
		return err
	}
	defer d.close()
	if _, err := d.ask(250, "EHLO localhost"); err != nil {
		return err
	}
	if !k.tls {
		if err := d.startTLS(ownCertificate(), "localhost"); err != nil {
			return err
		}
	}
	return d.quit()
}

// ownCertificate accepts whatever the server shows: it is our own server, met
// under an address instead of its name, and nothing secret is said to it.
func ownCertificate() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true}
}

// knockAny is content with the first door that answers: one address stands
// for IPv4 and IPv6, of which a container may have one.
func knockAny(ctx context.Context, doors []door) error {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	var errs []error
	for _, k := range doors {
		err := k.knock(ctx)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", k.address, err))
	}
	return fmt.Errorf("not well: %w", errors.Join(errs...))
}

// ownDoors finds the first listener of the configuration.
func ownDoors(config string) ([]door, error) {
	cfg, err := loadConfig(config)
	if err != nil {
		return nil, process.WithStatus(process.ExitConfig, err)
	}
	l := cfg.Listeners[0]
	var doors []door
	for _, address := range localAddresses(l.Address[0]) {
		doors = append(doors, door{address.String(), l.Mode == server.TLS, proxied(address.Addr(), cfg.Server.ProxyTrusted)})
	}
	return doors, nil
}

// localAddresses turns what a listener binds into what can be dialled from
// here. Validate has seen to it that it is an address and a port.
func localAddresses(bound string) []netip.AddrPort {
	host, port, _ := net.SplitHostPort(bound)
	n, _ := strconv.ParseUint(port, 10, 16)
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, uint16(n)) }
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil: // empty: all addresses
		return []netip.AddrPort{at(v4), at(v6)}
	case addr.IsUnspecified() && addr.Is4():
		return []netip.AddrPort{at(v4)}
	case addr.IsUnspecified():
		return []netip.AddrPort{at(v6), at(v4)}
	}
	return []netip.AddrPort{at(addr)}
}

// proxied says whether the server expects a PROXY header from us: a connection
// to one of its own addresses comes from that same address.
func proxied(a netip.Addr, trusted []netip.Prefix) bool {
	return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(a) })
}
