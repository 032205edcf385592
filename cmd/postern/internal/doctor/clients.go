package doctor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"postern/certs"
	"postern/cmd/postern/internal/dialogue"
	"postern/server"
)

// server looks for the addresses of server.hostname. It reports whether the rest can
// follow.
func (e *examination) server(ctx context.Context) bool {
	var err error
	e.addrs, err = e.dns.addresses(ctx, e.host)
	if e.unanswered("address", e.host, err) {
		return false
	}
	if len(e.addrs) == 0 {
		e.report.Fail("address", fmt.Errorf("%s has no address, so no client finds the server\n%s", e.host,
			missing(e.host+". IN A    <the public IPv4 address>", e.host+". IN AAAA <the public IPv6 address, if there is one>")))
		return false
	}
	e.report.OK("address", e.host+": "+join(e.addrs))
	for _, a := range e.addrs {
		if a.IsLoopback() {
			e.report.Note("address", fmt.Sprintf("%s is an address of every machine itself, often from /etc/hosts\nask a public server, as with --resolver 9.9.9.9", a))
		}
		if a.IsPrivate() || a.IsLinkLocalUnicast() {
			e.report.Note("address", fmt.Sprintf("%s is an address of a private network, so only clients in it reach the server", a))
		}
	}
	return true
}

func join[T fmt.Stringer](values []T) string {
	var all []string
	for _, v := range values {
		all = append(all, v.String())
	}
	return strings.Join(all, " ")
}

// reverse looks for the names of the addresses. Receivers of mail look for those of the
// sending server, which is usually the same machine.
func (e *examination) reverse(ctx context.Context) {
	for _, a := range e.addrs {
		if !a.IsGlobalUnicast() || a.IsPrivate() {
			continue
		}
		arpa, err := dns.ReverseAddr(a.String())
		if err != nil {
			continue
		}
		records, err := e.dns.ask(ctx, arpa, dns.TypePTR)
		if e.unanswered("PTR", arpa, err) {
			continue
		}
		names := of[*dns.PTR](records)
		record := fmt.Sprintf("%s IN PTR %s.", arpa, e.host)
		switch {
		case len(names) == 0:
			e.report.Warn("PTR", fmt.Sprintf("%s has no name, and many servers refuse mail from such an address\n"+
				"have the provider of the address set it:\n%s", a, record))
		case !slices.ContainsFunc(names, func(p *dns.PTR) bool { return same(p.Ptr, e.host) }):
			e.report.Note("PTR", fmt.Sprintf("the name of %s is %s and not %s, which some servers count against its mail\n"+
				"have the provider of the address set it:\n%s", a, shown(names[0].Ptr), e.host, record))
		default:
			e.report.OK("PTR", fmt.Sprintf("%s is %s", a, e.host))
		}
	}
}

// A port is where clients expect a listener.
type port struct {
	number uint16
	mode   server.Mode
}

// listeners returns the ports of the listeners that require a login and that other machines
// can reach.
func (e *examination) listeners() (ports []port) {
	here := slices.ContainsFunc(e.addrs, netip.Addr.IsLoopback)
	for i := range e.cfg.Listeners {
		l := &e.cfg.Listeners[i]
		for _, address := range l.Address {
			if n, ok := portOf(address); ok && l.RequireAuth && (here || !loopback(address)) {
				ports = append(ports, port{n, l.Mode})
			}
		}
	}
	return ports
}

func portOf(address string) (uint16, bool) {
	_, text, err := net.SplitHostPort(address)
	n, numberErr := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && numberErr == nil && n != 0
}

// loopback reports whether only this machine can connect to the address of a listener.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip, ipErr := netip.ParseAddr(host)
	return err == nil && ipErr == nil && ip.Unmap().IsLoopback()
}

// connectTime bounds the connection to one address and port.
const connectTime = 8 * time.Second

// ports connects to the listeners at the public addresses.
func (e *examination) ports(ctx context.Context) {
	for _, a := range e.addrs {
		for _, p := range e.listeners() {
			address := netip.AddrPortFrom(a, p.number).String()
			banner, err := answers(ctx, address, e.host, p.mode)
			switch {
			case errors.Is(err, syscall.ENETUNREACH):
				e.report.Note("port", fmt.Sprintf("this machine has no route to %s, so whether port %d answers there is unknown", a, p.number))
			case err != nil:
				e.report.Warn("port", fmt.Sprintf("%s port %d does not answer at %s: %s\nstart the server and open the port in the firewall; behind a router that does not "+
					"return connections to its own address (hairpin NAT), try from elsewhere: openssl s_client -connect %s:%d", e.host, p.number, address, shown(err.Error()), e.host, p.number))
			case !strings.HasPrefix(banner, e.host):
				e.report.Warn("port", fmt.Sprintf("another server answers at %s: %q\npoint the address of %s to this machine, or forward the port to it", address, shown(banner), e.host))
			default:
				e.report.OK("port", address+" answers")
			}
		}
	}
}

// answers returns the greeting after TLS has been started and EHLO has been answered. It
// does not verify the certificate, which check does.
func answers(ctx context.Context, address, name string, mode server.Mode) (banner string, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	secure := &tls.Config{ServerName: name, InsecureSkipVerify: true}
	if mode == server.TLS {
		conn = tls.Client(conn, secure)
	}
	deadline, _ := ctx.Deadline()
	var transcript bytes.Buffer
	d, err := dialogue.Open(conn, deadline, io.Writer(&transcript))
	if err != nil {
		return "", err
	}
	defer d.Close()
	banner = strings.TrimPrefix(strings.TrimSpace(transcript.String()), "S: 220 ")
	if _, err := d.Command(250, "EHLO localhost"); err != nil {
		return "", err
	}
	if mode != server.TLS {
		if err := d.StartTLS(secure, "localhost"); err != nil {
			return "", err
		}
	}
	return banner, d.Quit()
}

// services looks for the SRV records by which clients find the server (RFC 6186, and RFC
// 8314, section 5.1).
func (e *examination) services(ctx context.Context) {
	var lines []string
	for _, s := range []struct {
		name string
		mode server.Mode
	}{{"_submissions._tcp", server.TLS}, {"_submission._tcp", server.STARTTLS}} {
		name := s.name + "." + e.domain
		records, err := e.dns.ask(ctx, name, dns.TypeSRV)
		if e.unanswered("SRV", name, err) {
			continue
		}
		i := slices.IndexFunc(e.listeners(), func(p port) bool { return p.mode == s.mode })
		want := fmt.Sprintf("%s. IN SRV 0 1 0 .", name)
		if i >= 0 {
			want = fmt.Sprintf("%s. IN SRV 0 1 %d %s.", name, e.listeners()[i].number, e.host)
		}
		found := of[*dns.SRV](records)
		if len(found) == 0 {
			lines = append(lines, want)
		}
		for _, srv := range found {
			e.service(ctx, name, srv, s.mode, want)
		}
	}
	if len(lines) > 0 {
		e.report.Note("SRV", fmt.Sprintf("clients that configure themselves do not find the server for %s\n%s", e.domain, missing(lines...)))
	}
}

// service compares one SRV record with the listeners.
func (e *examination) service(ctx context.Context, name string, srv *dns.SRV, mode server.Mode, want string) {
	offered := slices.Contains(e.listeners(), port{srv.Port, mode})
	target := strings.TrimSuffix(srv.Target, ".")
	switch {
	case target == "" && slices.ContainsFunc(e.listeners(), func(p port) bool { return p.mode == mode }):
		e.report.Warn("SRV", fmt.Sprintf("%s tells clients that the service does not exist\nreplace the record:\n%s", name, want))
	case target == "":
		e.report.OK("SRV", name+": not offered")
	case !same(target, e.host):
		e.report.Note("SRV", fmt.Sprintf("%s names %s and not server.hostname, %s", name, shown(target), e.host))
		if addrs, err := e.dns.addresses(ctx, target); err == nil && len(addrs) == 0 {
			e.report.Fail("SRV", fmt.Errorf("%s names %s, which has no address\nreplace the record:\n%s", name, shown(target), want))
		}
	case !offered:
		e.report.Fail("SRV", fmt.Errorf("%s names port %d, where no listener has mode = %q\nreplace the record:\n%s", name, srv.Port, mode, want))
	default:
		e.report.OK("SRV", fmt.Sprintf("%s: %s port %d", name, e.host, srv.Port))
	}
}

// tlsa compares TLSA records, if there are any, with the certificates (RFC 6698, RFC 7671).
// Whether the zone is signed, without which they do not count, is left to their readers.
func (e *examination) tlsa(ctx context.Context) {
	for _, p := range e.listeners() {
		name := fmt.Sprintf("_%d._tcp.%s", p.number, e.host)
		records, err := e.dns.ask(ctx, name, dns.TypeTLSA)
		if err != nil || len(records) == 0 {
			continue
		}
		chains := e.chains()
		if len(chains) == 0 {
			return // check has the reason
		}
		if slices.ContainsFunc(of[*dns.TLSA](records), func(t *dns.TLSA) bool {
			return slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool { return matches(t, chain) })
		}) {
			e.report.OK("TLSA", name)
			continue
		}
		digest := sha256.Sum256(chains[0][0].RawSubjectPublicKeyInfo)
		e.report.Fail("TLSA", fmt.Errorf("%s is for another certificate, so clients that verify it refuse the server\nreplace the record:\n%s. IN TLSA 3 1 1 %x",
			name, name, digest))
	}
}

// matches reports whether a record is for the chain: for the server's certificate with the
// usages 1 and 3, otherwise for one of the others.
func matches(t *dns.TLSA, chain []*x509.Certificate) bool {
	certs := chain[:1]
	if t.Usage == 0 || t.Usage == 2 {
		certs = chain[1:]
	}
	return slices.ContainsFunc(certs, func(c *x509.Certificate) bool {
		data := c.Raw
		if t.Selector == 1 {
			data = c.RawSubjectPublicKeyInfo
		}
		switch t.MatchingType {
		case 1:
			sum := sha256.Sum256(data)
			data = sum[:]
		case 2:
			sum := sha512.Sum512(data)
			data = sum[:]
		}
		return strings.EqualFold(t.Certificate, hex.EncodeToString(data))
	})
}

// chains returns the chains of all pairs that can be read.
func (e *examination) chains() (all [][]*x509.Certificate) {
	for _, s := range e.cfg.TLSSections() {
		for _, p := range s.Certificates {
			files, err := certs.OpenFiles(certs.Config{Certificates: []certs.Pair{p}}, certs.NewLog(slog.New(slog.DiscardHandler)), nil)
			if err != nil {
				continue
			}
			pair, err := files.GetCertificate(new(tls.ClientHelloInfo))
			if err != nil {
				continue
			}
			var chain []*x509.Certificate
			for _, der := range pair.Certificate {
				if c, err := x509.ParseCertificate(der); err == nil {
					chain = append(chain, c)
				}
			}
			all = append(all, chain)
		}
	}
	return all
}
