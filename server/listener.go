package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern/relay/message"
	"postern/server/smtpd"
)

const (
	maxPause = time.Second // between two attempts to accept

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
	h := &handler{snapshot: s}
	if peer := addrOf(raw); trustedProxy(s.config.ProxyTrusted, peer) {
		client, reason := l.readProxyHeader(s, raw)
		if reason != "" {
			l.server.events.ConnectionRefused(l.config.Name, peer, reason)
			_ = raw.Close()
			return
		}
		raw, h.proxied = client.Conn, client.proxied
	}
	smtpd.Serve(context.Background(), raw, &s.protocol, h)
}

// A snapshot is all that the sessions of one listener work with. It never changes:
// a reload makes a new one for the connections that come then.
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
	hostname, origin := p.Config.Names()
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
			MinDataRate:    limits.MinDataRate,
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

// A handler is the [smtpd.Handler] of one connection.
type handler struct {
	*snapshot
	proxied proxied
}

// NewSession implements smtpd.Handler: it admits the connection, or refuses it
// because of a limit.
func (s *handler) NewSession(ctx context.Context, c *smtpd.Conn) (smtpd.Session, *smtpd.Reply) {
	class, client := s.classOf(c)
	slots, reason := s.acquireSlots(client, class)
	if reason != "" {
		s.server.events.ConnectionRefused(s.parts.Name, c.Remote().Addr(), reason)
		return nil, s.refuse(ctx, c)
	}
	if s.proxied.unknown {
		c.LimitCommands(replyUnknownClient)
	}
	n := &session{snapshot: s.snapshot, proxied: s.proxied, conn: c, slots: slots, begun: time.Now()}
	n.events = s.server.events.ForSession(c.ID(), s.parts.Name, c.Remote().Addr())
	if !s.server.add(n) {
		slots.release()
		c.Abort(smtpd.ErrClosed)
		return nil, replyShuttingDown
	}
	for _, place := range slots {
		place.canDrop(n)
	}
	n.events.Connected()
	return n, nil
}
