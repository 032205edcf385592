package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"postern/policy"
	"postern/relay"
	"postern/server/auth"
)

// mailLog is the vocabulary of the server's log: one method per event, one
// line per outcome. docs/log.md lists the events and their keys, and a test
// holds them stable, since fail2ban and people's scripts read them. Values go
// to slog as attributes, never into the message, so that no client can break
// or forge a line.
type mailLog struct {
	*slog.Logger
	limit  *logLimit
	client netip.Addr // of a session
}

func newMailLog(l *slog.Logger) mailLog { return mailLog{Logger: l, limit: newLogLimit()} }

// forSession returns a log whose lines all carry the session's id and client.
func (l mailLog) forSession(id, listener string, client netip.Addr) mailLog {
	return mailLog{l.With("session", id, "listener", listener, "client", client.String()), l.limit, client}
}

func (l mailLog) connected() { l.Debug("connected") }

func (l mailLog) disconnected(after time.Duration, messages int) {
	l.limit.sweep()
	l.Debug("disconnected", "seconds", int(after.Seconds()), "messages", messages)
}

// turnedAway is a connection that was refused before anything was said.
func (l mailLog) turnedAway(listener string, client netip.Addr, reason string) {
	l.limit.say("connection refused: "+reason, client, func(count int) {
		l.Warn("connection refused", "listener", listener, "client", client.String(), "reason", reason, "count", count)
	})
}

// dropped is a connection that has not logged in and had to make room.
func (l mailLog) dropped() {
	l.limit.say("connection dropped", l.client, func(count int) {
		l.Warn("connection dropped", "reason", tooManyStrangers, "count", count)
	})
}

func (l mailLog) acceptFailed(listener string, err error, pause time.Duration) {
	l.Error("cannot accept connections", "listener", listener, "err", err, "pause_ms", pause.Milliseconds())
}

func (l mailLog) listening(listener, address string, mode Mode) {
	l.Info("listening", "listener", listener, "address", address, "mode", mode.String())
}

func (l mailLog) handshakeFailed(err error) {
	l.limit.say("tls handshake failed", l.client, func(count int) {
		l.Info("tls handshake failed", "err", err, "count", count)
	})
}

func (l mailLog) authOK(id auth.Identity, state *tls.ConnectionState) {
	l.Info("auth ok", "user", id.User, "mech", id.Mechanism, "store", id.Store, "tls", tlsVersion(state))
}

// authError is an exchange that did not succeed. Only "auth failed" is the
// client's guess at a password, and what fail2ban reads.
func (l mailLog) authError(mech string, err error) {
	var failure *auth.Failure
	var unavailable *auth.Unavailable
	switch {
	case errors.As(err, &failure):
		l.authFailed(mech, failure)
	case errors.Is(err, auth.ErrMalformed):
		l.Warn("auth malformed", "mech", mech)
	case errors.Is(err, auth.ErrPenalty):
		l.authDelayed(mech, loginOf(err))
	case errors.As(err, &unavailable):
		l.Error("auth unavailable", "user", unavailable.Login, "mech", mech, "store", unavailable.Store, "err", unavailable.Err)
	default:
		l.Error("auth unavailable", "user", "", "mech", mech, "store", "", "err", err)
	}
}

// authDelayed is an attempt that nobody looked at: no guess, so fail2ban has no
// use for it.
func (l mailLog) authDelayed(mech, login string) {
	l.limit.say("auth delayed", l.client, func(count int) {
		l.Warn("auth delayed", "user", login, "mech", mech, "reason", "too many guesses from this address", "count", count)
	})
}

// authAbandoned is an attempt whose client has hung up before it was over, or
// that was in the way of a shutdown.
func (l mailLog) authAbandoned(mech string) { l.Info("auth abandoned", "mech", mech) }

// loginOf is the login of a temporary error, if it has one.
func loginOf(err error) string {
	var u *auth.Unavailable
	if errors.As(err, &u) {
		return u.Login
	}
	return ""
}

func (l mailLog) authFailed(mech string, f *auth.Failure) {
	reason := f.Kind.String()
	if f.Reason != "" {
		reason += ": " + f.Reason
	}
	l.Warn("auth failed", "user", f.Login, "mech", mech, "store", f.Store, "reason", reason)
}

// refused is a command that was answered with 4xx or 5xx by us or the hop.
func (l mailLog) refused(command string, t *transaction, rcpt string, reply *smtp.SMTPError, cause error) {
	attrs := []slog.Attr{slog.String("command", command), slog.Int("code", reply.Code), slog.String("reply", reply.Message)}
	if t != nil {
		attrs = append(attrs, slog.String("user", t.envelope.Login), slog.String("from", t.envelope.Sender))
	}
	if rcpt != "" {
		attrs = append(attrs, slog.String("to", rcpt))
	}
	if cause != nil {
		attrs = append(attrs, slog.Any("err", cause))
	}
	l.LogAttrs(context.Background(), slog.LevelWarn, "refused", attrs...)
}

// refusedByForm is a command that go-smtp has refused by itself, with the line of
// the reply. Of the client's own words only a command is logged: one that has
// fallen out of step may have sent a password.
func (l mailLog) refusedByForm(command string, line []byte) {
	switch command {
	case "EHLO", "HELO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "QUIT":
	default:
		command = "unknown"
	}
	var code int
	var enhanced, text string
	_, _ = fmt.Sscanf(string(line), "%d %s", &code, &enhanced)
	_, text, _ = strings.Cut(strings.TrimRight(string(line), "\r\n"), enhanced+" ")
	l.Warn("refused", "command", command, "code", code, "reply", text)
}

// warned is what warn_if_reject would have refused.
func (l mailLog) warned(r *policy.Request, v policy.Verdict) {
	for _, w := range v.Warnings {
		l.Warn("reject warning", "from", r.Sender, "to", r.Recipient, "user", r.Login, "reason", w)
	}
}

// accepted is a message that the next hop has taken.
func (l mailLog) accepted(t *transaction, size int64, receipt relay.Receipt, took time.Duration) {
	l.Info("accepted", "message", t.id, "user", t.envelope.Login, "from", t.envelope.Sender,
		"to", strings.Join(t.recipients[:min(len(t.recipients), loggedRecipients)], ","), "nrcpt", len(t.recipients),
		"size", size, "hop", receipt.Hop, "queue_id", queueID(receipt.Text), "reply", receipt.Text,
		"took_ms", took.Milliseconds())
}

// duplicate is a message that the next hop has taken already, under the id
// first, and that was not sent again.
func (l mailLog) duplicate(t *transaction, size int64, first *receipt) {
	l.Info("duplicate", "message", t.id, "user", t.envelope.Login, "from", t.envelope.Sender, "nrcpt", len(t.recipients),
		"size", size, "first", first.message, "hop", first.Hop, "queue_id", queueID(first.Text), "reply", first.Text)
}

// acceptedLate is a message that the next hop has taken after all, when the
// client had been told to come again.
func (l mailLog) acceptedLate(t *transaction, said relay.Receipt, took time.Duration) {
	l.Info("accepted late", "message", t.id, "user", t.envelope.Login, "from", t.envelope.Sender, "nrcpt", len(t.recipients),
		"hop", said.Hop, "queue_id", queueID(said.Text), "reply", said.Text, "took_ms", took.Milliseconds())
}

// noLateAnswer is one that the hop has refused after all, or of which it has
// said nothing: when the client sends it again, it is sent again.
func (l mailLog) noLateAnswer(t *transaction, err error) {
	l.Info("no late answer", "message", t.id, "user", t.envelope.Login, "from", t.envelope.Sender, "err", err)
}

// loggedRecipients is how many recipients the line of a message names.
const loggedRecipients = 20

// queueID finds the id in "2.0.0 Ok: queued as 4ZxY1b2c3d".
func queueID(text string) string {
	_, id, _ := strings.Cut(text, "queued as ")
	id, _, _ = strings.Cut(id, " ")
	return id
}

func tlsVersion(state *tls.ConnectionState) string {
	if state == nil {
		return ""
	}
	return strings.ReplaceAll(tls.VersionName(state.Version), " ", "")
}
