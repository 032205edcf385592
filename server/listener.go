package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"

	"postern/internal/netprefix"
	"postern/relay/message"
	"postern/server/smtpd"
)

const (
	proxyTimeout = 10 * time.Second // for a proxy to send its header
	maxPause     = time.Second      // between two attempts to accept

	// replyTime is the time within which every command is answered. RFC 6409, section
	// 5.3, asks for two minutes, DATA included.
	replyTime = 110 * time.Second

	// maxCommandLine is in octets. RFC 4954, section 4, asks for 12,288 in an exchange of
	// AUTH; everything else is far shorter.
	maxCommandLine = 16 << 10
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

// accept returns only when the socket is closed: a server that has run out of file
// descriptors must continue when there are some again.
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
	s := l.acquireSnapshot()
	defer s.releaseConn()
	if peer := addrOf(raw); trustedProxy(s.config.ProxyTrusted, peer) {
		client, reason := l.readProxyHeader(s, raw)
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
	return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(peer) })
}

func addrOf(c net.Conn) netip.Addr {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}

// readProxyHeader reads the header that a trusted proxy must send, so that the log, the
// limits and the penalties see the client. Connections without a header yet have a
// limit of their own: as the client is not known, they must not use up the limits
// that known clients pass.
func (l *listener) readProxyHeader(s *snapshot, raw net.Conn) (client net.Conn, reason string) {
	slot, _ := l.server.proxyPending.acquire(netip.Prefix{}, Limits{Unauthenticated: s.config.Limits.Unauthenticated})
	if slot == nil {
		if l.config.Mode == STARTTLS { // the client can read a reply without TLS
			_ = raw.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			_, _ = raw.Write([]byte("421 4.7.0 Error: too many connections\r\n"))
		}
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

// A snapshot is all that the sessions of one listener work with. It never changes:
// a reload makes a new one for the connections that come then. As an
// [smtpd.Handler] it admits connections.
type snapshot struct {
	server   *Server
	listener *listener
	config   *Config
	hostname string
	origin   string // completes addresses without a domain
	parts    *ListenerParts
	limits   Limits // the listener's own over the server's
	protocol smtpd.Config
	stage    *message.Stage

	mu      sync.Mutex
	conns   int
	retired bool // a reload has replaced it
}

// acquireSnapshot returns the snapshot for a new connection, which must call releaseConn
// at its end.
func (l *listener) acquireSnapshot() *snapshot {
	for {
		s := l.snapshot.Load()
		s.mu.Lock()
		retired := s.retired
		if !retired {
			s.conns++
		}
		s.mu.Unlock()
		if !retired { // else the listener has a newer one
			return s
		}
	}
}

func (s *snapshot) releaseConn() {
	s.mu.Lock()
	s.conns--
	unused := s.retired && s.conns == 0
	s.mu.Unlock()
	if unused && s.parts.Unused != nil {
		s.parts.Unused()
	}
}

// retire is called when the listener has a newer snapshot.
func (s *snapshot) retire() {
	s.mu.Lock()
	s.retired = true
	unused := s.conns == 0
	s.mu.Unlock()
	if unused && s.parts.Unused != nil {
		s.parts.Unused()
	}
}

// newSnapshot makes the snapshot of one listener; l is nil if that is not known yet.
func (s *Server) newSnapshot(p *Parts, parts *ListenerParts, l *listener) (*snapshot, error) {
	if parts.Policy == nil {
		return nil, fmt.Errorf("server: listener %q has no policy", parts.Name)
	}
	limits := parts.Limits.over(p.Config.Limits)
	var hidden []string
	for _, keyword := range parts.DiscardEHLOKeywords {
		hidden = append(hidden, strings.ToUpper(keyword))
	}
	hostname, origin := p.Config.names()
	return &snapshot{
		server: s, listener: l, parts: parts, stage: p.Stage,
		config: &p.Config, hostname: hostname, origin: origin, limits: limits,
		protocol: smtpd.Config{
			Hostname:       hostname,
			TLS:            parts.TLS,
			ImplicitTLS:    parts.Mode == TLS,
			RequireTLS:     true,
			HiddenKeywords: hidden,
			MaxErrors:      limits.RefusedCommands,
			MaxJunk:        limits.JunkCommands,
			MaxOvershoot:   limits.RecipientOvershoot,
			MaxLine:        maxCommandLine,
			PreAuth:        smtpd.Timeouts{Command: min(limits.LoginCommandTimeout, limits.CommandTimeout), Data: min(limits.LoginCommandTimeout, limits.DataTimeout)},
			Normal:         smtpd.Timeouts{Command: limits.CommandTimeout, Data: limits.DataTimeout},
			LoginTime:      limits.LoginTime,
			ReplyTime:      replyTime,
			WriteTime:      time.Minute,
			RefuseTime:     5 * time.Second,
			Linger:         s.linger,
		},
	}, nil
}

// NewSession implements smtpd.Handler: it admits the connection, or refuses it
// because of a limit.
func (s *snapshot) NewSession(ctx context.Context, c *smtpd.Conn) (smtpd.Session, *smtpd.Reply) {
	client := c.Remote().Addr()
	slots, reason := s.acquireSlots(netprefix.Client(client))
	if reason != "" {
		s.server.events.ConnectionRefused(s.parts.Name, client, reason)
		return nil, s.refuse(ctx, c)
	}
	n := &session{snapshot: s, conn: c, slots: slots, begun: time.Now()}
	n.events = s.server.events.ForSession(c.ID(), s.parts.Name, client)
	if !s.server.add(n) {
		slots.release()
		c.Abort(smtpd.ErrClosed)
		return nil, replyShuttingDown
	}
	n.events.Connected()
	return n, nil
}
