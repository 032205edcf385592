package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"postern/internal/neterr"
)

// OnThisMachine reports whether the hop is a Unix socket or has an address of this
// machine. It resolves host names; a name that does not resolve before ctx ends counts as
// another machine.
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

// advice returns the next step for the administrator after an error of open.
func (p *peer) advice(err error) string {
	var dns *net.DNSError
	var record tls.RecordHeaderError
	var timeout net.Error
	var greeting *greetingError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: check that the mail server is running and that this is its port (for Postfix: postfix status; postconf -M)"
	case errors.As(err, &dns):
		return p.explained(neterr.Dial, err)
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such socket: check that the mail server is running and that this is the path of its socket"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied for the socket: give write access to the user that postern runs as"
	case errors.Is(err, errNoSTARTTLS):
		return "set up TLS at the hop, or, if it is on this machine, write smtp:// in relay.next_hops"
	case errors.Is(err, errAuth):
		return "correct the user and the password in the file relay.credentials"
	case errors.Is(err, errMechanism):
		return "postern supports PLAIN and LOGIN: enable one of them at the hop, over TLS"
	case errors.As(err, &greeting):
		r := Refused{Command: "EHLO " + p.helo, Reply: greeting.reply}
		if p.explain(&r, r.Reply, greeting.own); r.Reach == All {
			return r.Step
		}
		return "allow the address of this machine at the hop (for Postfix: mynetworks, smtpd_client_restrictions)"
	case errors.Is(err, errRequired) && strings.Contains(err.Error(), "STARTTLS"):
		return "write smtp+starttls:// in relay.next_hops"
	case errors.Is(err, errRequired):
		return "name a file with user and password in relay.credentials, or a port of the hop that trusts the address of this machine"
	case errors.Is(err, errClosing):
		return "look for the reason in the log of the hop (for Postfix: smtpd_client_connection_count_limit)"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return "the hop closes the connection instead of a reply: look for the reason in the log of the hop (Postfix: journalctl -u postfix@-)"
	case errors.As(err, &record):
		return "the hop does not speak TLS on this port: write smtp:// or smtp+starttls:// in relay.next_hops"
	case isCertificate(err):
		return p.explained(neterr.Handshake, err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return "the hop does not reply in time: check for a firewall in between, for overload of the hop, and whether this port expects TLS from the first byte (smtps://)"
	}
	return "check that this is the port of an SMTP server"
}

// explained returns the cause and the next step of an error that every kind of server can have.
func (p *peer) explained(phase neterr.Phase, err error) string {
	server := neterr.Server{
		Name: "mail server", Address: p.url.Address, AddressKey: "relay.next_hops",
		Host: p.url.Host, CAFile: p.cfg.CAFile, CAKey: "relay.ca_file",
	}
	e, ok := errors.AsType[*neterr.Error](server.Explain(phase, err))
	if !ok {
		return "check that this is the port of an SMTP server"
	}
	if phase == neterr.Dial {
		return e.Step // err has the cause
	}
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown && p.url.IsLocal() {
		return e.Error() + ", or set relay.verify = false, which is safe on loopback"
	}
	return e.Error()
}

func isCertificate(err error) bool {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	return errors.As(err, &invalid) || errors.As(err, &unknown) || errors.As(err, &name)
}
