package server

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pires/go-proxyproto"

	"postern/server/smtpd"
)

// proxyTimeout is the time for a proxy to send its header.
const proxyTimeout = 10 * time.Second

func trustedProxy(trusted []netip.Prefix, peer netip.Addr) bool {
	return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(peer) })
}

func addrOf(c net.Conn) netip.Addr { return tcpAddr(c.RemoteAddr()) }

// tcpAddr is the IP address of a, without a zone, or the zero value if it is not of TCP.
func tcpAddr(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// proxied is what a PROXY header says about the client, besides its address. The zero value
// is a connection without a proxy.
type proxied struct {
	header  bool // there was a header
	unknown bool // the proxy does not know the client, or is the client itself: a health check
	atProxy bool // the client has an address of a proxy
}

// A proxiedConn is a connection after its PROXY header.
type proxiedConn struct {
	net.Conn
	proxied
}

// A directConn has the addresses of the proxy's own connection.
type directConn struct{ *proxyproto.Conn }

func (c directConn) RemoteAddr() net.Addr { return c.Raw().RemoteAddr() }
func (c directConn) LocalAddr() net.Addr  { return c.Raw().LocalAddr() }

// readProxyHeader reads the header that a trusted proxy must send, so that the log, the
// limits and the penalties see the client. Connections without a header yet have a
// limit of their own: as the client is not known, they must not use up the limits
// that known clients pass. A reason means that the connection is refused.
func (l *listener) readProxyHeader(s *snapshot, raw net.Conn) (client proxiedConn, reason string) {
	slot, _, _ := l.server.proxyPending.acquire(netip.Prefix{}, unauthenticated, Limits{Unauthenticated: s.config.Limits.Unauthenticated}.bounds(false))
	if slot == nil {
		if l.config.Mode == STARTTLS { // the client can read a reply without TLS
			_ = raw.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			_, _ = raw.Write([]byte("421 4.7.0 Error: too many connections\r\n"))
		}
		return proxiedConn{}, "too many connections without their PROXY header"
	}
	defer slot.release()
	stop := context.AfterFunc(l.server.accepting, func() { _ = raw.Close() })
	defer stop()
	c := proxyproto.NewConn(raw, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(proxyTimeout))
	header := c.ProxyHeader()
	switch {
	case header == nil:
		return proxiedConn{}, "no valid PROXY header from a trusted proxy"
	case header.Command.IsLocal() || header.TransportProtocol == proxyproto.UnixStream:
		return proxiedConn{directConn{c}, proxied{header: true, unknown: true, atProxy: true}}, ""
	case !addrOf(c).IsValid():
		return proxiedConn{}, "the PROXY header names a client that has no TCP address"
	}
	return proxiedConn{c, proxied{header: true, atProxy: s.isProxy(addrOf(c), raw, header)}}, ""
}

// isProxy reports whether the client that a header names has an address of a proxy or of
// the proxy's machine: of its connection to this server, in proxy_trusted, a loopback
// address, or the one that the client has connected to. Such a client is a program on that
// machine, or came through a second proxy that has sent no header.
func (s *snapshot) isProxy(client netip.Addr, raw net.Conn, header *proxyproto.Header) bool {
	return client == addrOf(raw) || client == tcpAddr(header.DestinationAddr) || trustedProxy(s.config.ProxyTrusted, client) ||
		client.IsLoopback() || client.IsUnspecified()
}

// foreignHint is what the administrator can do about a client that does not speak SMTP.
func (p proxied) foreignHint(e *smtpd.ForeignError) string {
	switch {
	case e.Protocol != "PROXY":
		return ""
	case p.header:
		return "this is the second PROXY header of the connection; remove send-proxy at all proxies but the last"
	}
	return "if the client is your proxy, add its address to server.proxy_trusted; if not, no action is needed"
}
