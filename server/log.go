package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"postern/policy"
	"postern/relay"
	"postern/server/auth"
	"postern/server/auth/throttle"
	"postern/server/smtpd"
)

// An eventLog writes the events of the server: one method for each event, one line
// for each outcome. docs/log.md lists the events and their keys, and a test holds
// them stable, since fail2ban and scripts read them. Values are attributes, never
// part of the message, so that no client can break or forge a line.
type eventLog struct {
	*slog.Logger
	limit  *logLimit
	client netip.Addr // of a session
}

// NewLog returns Events that are written to l. Make one for the life of the process:
// it counts what is not logged at once.
func NewLog(l *slog.Logger) Events { return newEventLog(l) }

func newEventLog(l *slog.Logger) *eventLog { return &eventLog{Logger: l, limit: newLogLimit()} }

// ForSession implements Events: all lines carry the id and the client.
func (l *eventLog) ForSession(id, listener string, client netip.Addr) SessionEvents {
	return &eventLog{l.With("session", id, "listener", listener, "client", client.String()), l.limit, client}
}

func (l *eventLog) Connected() { l.Debug("connected") }

func (l *eventLog) Disconnected(after time.Duration, messages int) {
	l.limit.sweep()
	l.Debug("disconnected", "seconds", int(after.Seconds()), "messages", messages)
}

func (l *eventLog) ConnectionRefused(listener string, client netip.Addr, reason string) {
	l.limit.log("connection refused: "+reason, client, func(count int) {
		l.Warn("connection refused", "listener", listener, "client", client.String(), "reason", reason, "count", count)
	})
}

func (l *eventLog) Dropped() {
	l.limit.log("connection dropped", l.client, func(count int) {
		l.Warn("connection dropped", "reason", tooManyUnauthenticated, "count", count)
	})
}

func (l *eventLog) AcceptFailed(listener string, err error, pause time.Duration) {
	l.Error("cannot accept connections", "listener", listener, "err", err, "pause_ms", pause.Milliseconds())
}

func (l *eventLog) Listening(listener, address string, mode Mode) {
	l.Info("listening", "listener", listener, "address", address, "mode", mode.String())
}

func (l *eventLog) RestartNeeded(listener, reason string) {
	l.Warn("restart needed", "listener", listener, "reason", reason)
}

func (l *eventLog) HandshakeFailed(err error) {
	l.limit.log("tls handshake failed", l.client, func(count int) {
		l.Info("tls handshake failed", "err", err, "count", count)
	})
}

func (l *eventLog) ForeignProtocol(protocol string) {
	l.limit.log("foreign protocol", l.client, func(count int) {
		l.Warn("foreign protocol", "protocol", protocol, "count", count)
	})
}

func (l *eventLog) ConnectionError(err error) { l.Debug("connection error", "err", err) }

func (l *eventLog) Panicked(p *smtpd.PanicError) {
	l.Error("internal error", "panic", p.Value, "stack", string(p.Stack))
}

func (l *eventLog) AuthOK(id auth.Identity, state *tls.ConnectionState) {
	l.Info("auth ok", "user", id.User, "mech", id.Mechanism, "store", id.Store, "tls", tlsVersion(state))
}

// AuthError implements SessionEvents. Only "auth failed" is a guess at a password, and
// what fail2ban reads.
func (l *eventLog) AuthError(mech string, err error) {
	var failure *auth.Failure
	var unavailable *auth.Unavailable
	switch {
	case errors.As(err, &failure):
		l.authFailed(mech, failure)
	case errors.Is(err, auth.ErrMalformed):
		l.Warn("auth malformed", "mech", mech)
	case errors.Is(err, throttle.ErrPenalty):
		l.authDelayed(mech, loginOf(err))
	case errors.As(err, &unavailable):
		l.Error("auth unavailable", "user", unavailable.Login, "mech", mech, "store", unavailable.Store, "err", unavailable.Err)
	default:
		l.Error("auth unavailable", "user", "", "mech", mech, "store", "", "err", err)
	}
}

// authDelayed is an attempt that was not examined. It is no guess, so fail2ban has no
// use for it.
func (l *eventLog) authDelayed(mech, login string) {
	l.limit.log("auth delayed", l.client, func(count int) {
		l.Warn("auth delayed", "user", login, "mech", mech, "reason", "too many guesses from this address", "count", count)
	})
}

func (l *eventLog) AuthAbandoned(mech string) { l.Info("auth abandoned", "mech", mech) }

// loginOf is the login of a temporary error, if it has one.
func loginOf(err error) string {
	var u *auth.Unavailable
	if errors.As(err, &u) {
		return u.Login
	}
	return ""
}

func (l *eventLog) authFailed(mech string, f *auth.Failure) {
	reason := f.Kind.String()
	if f.Reason != "" {
		reason += ": " + f.Reason
	}
	l.Warn("auth failed", "user", f.Login, "mech", mech, "store", f.Store, "reason", reason)
}

// Refused implements SessionEvents. The argument of the command is logged where the
// addresses are not known from it.
func (l *eventLog) Refused(r Refused) {
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs, slog.String("command", r.Verb), slog.Int("code", r.Reply.Code), slog.String("reply", r.Reply.Text()))
	if r.User != "" || r.InTransaction {
		attrs = append(attrs, slog.String("user", r.User))
	}
	if r.InTransaction {
		attrs = append(attrs, slog.String("from", r.From))
	}
	if r.To != "" {
		attrs = append(attrs, slog.String("to", r.To))
	}
	if r.Reply.Cause != nil {
		attrs = append(attrs, slog.Any("err", r.Reply.Cause))
	}
	if r.Argument != "" && r.To == "" {
		attrs = append(attrs, slog.String("argument", r.Argument))
	}
	l.LogAttrs(context.Background(), slog.LevelWarn, "refused", attrs...)
}

func (l *eventLog) RejectWarning(r *policy.Request, warning string) {
	l.Warn("reject warning", "from", r.Sender, "to", r.Recipient, "user", r.Login, "reason", warning)
}

func (l *eventLog) Accepted(m MessageEvent, receipt relay.Receipt, took time.Duration) {
	l.Info("accepted", "message", m.ID, "user", m.User, "from", m.From,
		"to", strings.Join(m.To[:min(len(m.To), loggedRecipients)], ","), "nrcpt", len(m.To),
		"size", m.Size, "hop", receipt.Hop, "queue_id", receipt.QueueID(), "reply", receipt.Text,
		"took_ms", took.Milliseconds())
}

func (l *eventLog) Duplicate(m MessageEvent, receipt relay.Receipt) {
	l.Info("duplicate", "message", m.ID, "user", m.User, "from", m.From, "nrcpt", len(m.To),
		"size", m.Size, "first", receipt.First, "hop", receipt.Hop, "queue_id", receipt.QueueID(), "reply", receipt.Text)
}

// loggedRecipients is how many recipients the line of a message names.
const loggedRecipients = 20

func tlsVersion(state *tls.ConnectionState) string {
	if state == nil {
		return ""
	}
	return strings.ReplaceAll(tls.VersionName(state.Version), " ", "")
}
