package server

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"postern/internal/netprefix"
	"postern/relay/message"
	"postern/server/smtpd"
)

// replyTime is the time within which every command is answered. RFC 6409, section
// 5.3, asks for two minutes, DATA included.
const replyTime = 110 * time.Second

// A snapshot is all that the sessions of one listener work with. It never changes:
// a reload makes a new one for the connections that come then. As an
// [smtpd.Handler] it admits connections.
type snapshot struct {
	server   *Server
	listener *listener
	config   *Config
	parts    *ListenerParts
	limits   Limits // the listener's own over the server's
	protocol smtpd.Config
	stage    *message.Stage
}

// protocolConfig is what the protocol has to know of a listener.
func protocolConfig(p *Parts, l *ListenerParts, limits *Limits, linger *smtpd.Linger) smtpd.Config {
	return smtpd.Config{
		Hostname:       p.Config.hostname(),
		TLS:            l.TLS,
		ImplicitTLS:    l.Mode == TLS,
		RequireTLS:     true,
		HiddenKeywords: capitals(l.DiscardEHLOKeywords),
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
		Linger:         linger,
	}
}

func capitals(words []string) (all []string) {
	for _, word := range words {
		all = append(all, strings.ToUpper(word))
	}
	return all
}

// maxCommandLine is in octets. RFC 4954, section 4, asks for 12,288 in an exchange of
// AUTH; everything else is far shorter.
const maxCommandLine = 16 << 10

// NewSession implements smtpd.Handler: it admits the connection, or refuses it
// because of a limit.
func (s *snapshot) NewSession(ctx context.Context, c *smtpd.Conn) (smtpd.Session, *smtpd.Reply) {
	client := c.Remote().Addr()
	slots, reason := s.acquire(netprefix.Client(client))
	if reason != "" {
		s.server.events.ConnectionRefused(s.parts.Name, client, reason)
		return nil, s.refusal(ctx, c)
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

// slots are the places of a connection: in the whole server, and in its listener.
type slots struct{ server, listener *slot }

func (s slots) authenticated() { s.server.authenticated(); s.listener.authenticated() }
func (s slots) remember()      { s.server.remember(); s.listener.remember() }
func (s slots) release()       { s.server.release(); s.listener.release() }

// acquire returns the slots of a connection, or the limit that is reached.
func (s *snapshot) acquire(client netip.Prefix) (all slots, reason string) {
	all.server, reason = s.server.limiter.acquire(client, s.config.Limits)
	if reason == tooManyUnauthenticated && s.server.dropOldestUnauthenticated() {
		all.server, reason = s.server.limiter.acquire(client, s.config.Limits)
	}
	if reason != "" {
		return slots{}, reason
	}
	all.listener, reason = s.listener.limiter.acquire(client, s.parts.Limits)
	if reason != "" {
		all.server.release()
		return slots{}, reason
	}
	return all, ""
}

// refusalLimits bound the connections that are refused inside TLS at the same time.
var refusalLimits = Limits{Connections: 64, ConnectionsPerClient: 2}

// refusal is the reply to a connection above a limit. Inside TLS it costs a
// handshake, so only a few clients receive it; to the others the connection is
// closed at once, which mail clients report as a problem with the certificate.
func (s *snapshot) refusal(ctx context.Context, c *smtpd.Conn) *smtpd.Reply {
	if s.parts.Mode == TLS {
		slot, _ := s.server.refused.acquire(netprefix.Client(c.Remote().Addr()), refusalLimits)
		if slot == nil {
			c.Abort(smtpd.ErrClosed)
		} else {
			context.AfterFunc(ctx, slot.release)
		}
	}
	return replyTooManyConnections
}
