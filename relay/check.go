package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// Check connects to the hop once and does everything that precedes MAIL. The
// error has the cause and what to do about it.
func (h *Hop) Check(ctx context.Context) error {
	c, err := h.pool.peer.open(ctx)
	if err != nil {
		return fmt.Errorf("next hop %s: %w: %s", h, err, h.pool.peer.advice(err))
	}
	h.answered(c.caps)
	c.quit()
	return nil
}

// Check checks every hop; the error joins those of the hops that do not work.
func (r *Router) Check(ctx context.Context) error {
	var all []error
	for _, h := range r.hops {
		all = append(all, h.Check(ctx))
	}
	return errors.Join(all...)
}

// OnThisMachine reports whether the hop is a Unix socket or has an address of
// this machine. It resolves host names; a name that does not resolve before ctx
// is done counts as another machine.
func (h *Hop) OnThisMachine(ctx context.Context) bool {
	u := h.pool.peer.url
	if u.IsLocal() {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Host)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(ip netip.Addr) bool {
		return ip.Unmap().IsLoopback() || slices.ContainsFunc(own, func(a net.Addr) bool {
			prefix, err := netip.ParsePrefix(a.String())
			return err == nil && prefix.Addr().WithZone("") == ip.Unmap().WithZone("")
		})
	})
}

// advice returns what to do about an error of open.
func (p *peer) advice(err error) string {
	var dns *net.DNSError
	var record tls.RecordHeaderError
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: is the mail server running, and is this its port? (for Postfix: postfix status; postconf -M)"
	case errors.As(err, &dns):
		return "the name cannot be resolved: is it spelled right in relay.next_hops?"
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such socket: is the mail server running, and is this its path?"
	case errors.Is(err, fs.ErrPermission):
		return "we may not open the socket: give the user that postern runs as the right to write to it"
	case errors.Is(err, errNoSTARTTLS):
		return "set up TLS there, or, if the hop is on this machine, write smtp:// in relay.next_hops"
	case errors.Is(err, errAuth):
		return "look into the file relay.credentials"
	case errors.Is(err, errMechanism):
		return "we know PLAIN and LOGIN: switch one of them on there, over TLS"
	case errors.Is(err, errGreeting):
		return "the hop must allow our address (for Postfix: mynetworks, smtpd_client_restrictions)"
	case errors.As(err, &record):
		return "the hop does not speak TLS on this port: write smtp:// or smtp+starttls:// in relay.next_hops"
	case isCertificate(err):
		return p.certificateAdvice()
	case errors.As(err, &timeout) && timeout.Timeout():
		return "the hop does not answer in time: is a firewall in between, is the hop overloaded, does this port want TLS from the first byte (smtps://)?"
	}
	return "is it an SMTP server, and is the port right?"
}

func isCertificate(err error) bool {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	return errors.As(err, &invalid) || errors.As(err, &unknown) || errors.As(err, &name)
}

func (p *peer) certificateAdvice() string {
	if p.url.IsLocal() {
		return "name the CA in relay.ca_file, or write relay.verify = false, which is all right on loopback"
	}
	return "use the name in the certificate in relay.next_hops, and if its CA is your own, name it in relay.ca_file"
}
