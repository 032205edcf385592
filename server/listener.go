package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"

	"postern/server/smtpd"
)

const (
	proxyTimeout = 10 * time.Second // for a proxy to send its header
	maxPause     = time.Second      // between two attempts to accept
)

// A listener is the sockets of one [[listener]], with the snapshot that serves the
// connections which come now. A reload replaces the snapshot.
type listener struct {
	server   *Server
	config   Listener
	snapshot atomic.Pointer[snapshot]
	limiter  connLimiter // for the listener's own limits
	sockets  []net.Listener
}

func (l *listener) listen() error {
	if len(l.sockets) > 0 {
		return nil
	}
	for _, address := range l.config.Address {
		socket, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("listener %q: %w", l.config.Name, err)
		}
		l.sockets = append(l.sockets, socket)
	}
	return nil
}

func (l *listener) close() {
	for _, socket := range l.sockets {
		_ = socket.Close()
	}
}

// accept ends only when the socket is closed: a server that has run out of file
// descriptors must come back when there are some again.
func (l *listener) accept(socket net.Listener) {
	pause := time.Duration(0)
	for {
		raw, err := socket.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			pause = min(max(2*pause, 5*time.Millisecond), maxPause)
			l.server.events.AcceptFailed(l.config.Name, err, pause)
			time.Sleep(pause)
		default:
			pause = 0
			go l.serve(raw)
		}
	}
}

// serve serves a connection until it is closed.
func (l *listener) serve(raw net.Conn) {
	s := l.snapshot.Load()
	if peer := addrOf(raw); trustedProxy(s.config.ProxyTrusted, peer) {
		client, reason := l.announced(s, raw)
		if client == nil {
			l.server.events.ConnectionRefused(l.config.Name, peer, reason)
			_ = raw.Close()
			return
		}
		raw = client
	}
	smtpd.Serve(context.Background(), raw, &s.protocol, s)
}

func trustedProxy(trusted []netip.Prefix, peer netip.Addr) bool {
	for _, p := range trusted {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

func addrOf(c net.Conn) netip.Addr {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}

// announced reads the header that a trusted proxy must send, so that the log, the
// limits and the penalties see the client. Connections without a header yet have a
// limit of their own: as the client is not known, they must not use up the limits
// that known clients pass.
func (l *listener) announced(s *snapshot, raw net.Conn) (client net.Conn, reason string) {
	slot, _ := l.server.unannounced.acquire(netip.Prefix{}, Limits{Unauthenticated: s.config.Limits.Unauthenticated})
	if slot == nil {
		refuseInClear(raw, l.config.Mode)
		return nil, "too many connections without their PROXY header"
	}
	defer slot.release()
	stop := context.AfterFunc(l.server.accepting, func() { _ = raw.Close() })
	defer stop()
	c := proxyproto.NewConn(raw, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(proxyTimeout))
	switch {
	case c.ProxyHeader() == nil:
		return nil, "no valid PROXY header from a trusted proxy"
	case !addrOf(c).IsValid():
		return nil, "the PROXY header names a client that has no TCP address"
	}
	return c, ""
}

// refuseInClear sends 421 to a client that can read it without TLS.
func refuseInClear(raw net.Conn, mode Mode) {
	if mode == STARTTLS {
		_ = raw.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		_, _ = raw.Write([]byte("421 4.7.0 Error: too many connections\r\n"))
	}
}
