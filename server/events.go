package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"postern/internal/netprefix"
	"postern/policy"
	"postern/relay"
	"postern/server/auth"
	"postern/server/auth/throttle"
	"postern/server/smtpd"
)

// Events receives everything that the log and the metrics need to know of the
// server. Its methods are called by many goroutines at once and must not block.
// [NewLog] makes one that writes the log; docs/log.md lists the events.
type Events interface {
	Listening(listener, address string, mode Mode)
	AcceptFailed(listener string, err error, pause time.Duration)
	ConnectionRefused(listener string, client netip.Addr, reason string)
	RestartNeeded(listener, reason string)

	// ForSession returns the events of one connection.
	ForSession(id, listener string, client netip.Addr) SessionEvents
}

// SessionEvents receives what happens in one connection.
type SessionEvents interface {
	Connected()
	Disconnected(after time.Duration, messages int)
	Dropped(reason, user string) // to make room; user is empty if another client needs it
	TooManyOfUser(user string)   // the password was right, but the user has too many connections
	HandshakeFailed(err error)
	ForeignProtocol(protocol, hint string) // hint is the administrator's next step, or empty
	ConnectionError(err error)
	Panicked(p *smtpd.PanicError)

	AuthOK(id auth.Identity, state *tls.ConnectionState)
	AuthError(mechanism string, err error, abandoned bool) // abandoned: the client had hung up
	AuthAbandoned(mechanism, user string)                  // by the client, or because of a shutdown; user: its password was right
	AuthUnfinished(mechanism, login string)                // SCRAM, after the client has got the salt

	Refused(r Refused)
	UnknownClient(r smtpd.Refusal)                   // of a client that a proxy does not name
	RejectWarning(r *policy.Request, warning string) // of warn_if_reject, or of WARN in an access table

	Accepted(m MessageEvent, receipt relay.Receipt, took time.Duration)
	Duplicate(m MessageEvent, receipt relay.Receipt) // it was sent before, as receipt.First
}

// A MessageEvent describes a message.
type MessageEvent struct {
	ID   string // of the session, ".", and a number
	User string
	From string
	To   []string
	Size int64 // octets as they were sent
}

// Refused is a command, a message or an exchange that was answered with 4yz or 5yz.
type Refused struct {
	smtpd.Refusal
	User          string // empty before authentication
	InTransaction bool
	From, To      string // as the client sent them, where they are known
}

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
func NewLog(l *slog.Logger) Events { return &eventLog{Logger: l, limit: newLogLimit()} }

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

func (l *eventLog) Dropped(reason, user string) {
	l.limit.log("connection dropped: "+reason, l.client, func(count int) {
		l.Warn("connection dropped", withUser(user, "reason", reason, "count", count)...)
	})
}

func (l *eventLog) TooManyOfUser(user string) {
	l.limit.log("connection refused: "+tooManyOfUser, l.client, func(count int) {
		l.Warn("connection refused", withUser(user, "reason", tooManyOfUser, "count", count)...)
	})
}

// withUser adds the user, if there is one.
func withUser(user string, attrs ...any) []any {
	if user == "" {
		return attrs
	}
	return append(attrs, "user", user)
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

func (l *eventLog) ForeignProtocol(protocol, hint string) {
	l.limit.log("foreign protocol"+hint, l.client, func(count int) { // the hint has lines of its own
		attrs := []any{"protocol", protocol, "count", count}
		if hint != "" {
			attrs = append(attrs, "hint", hint)
		}
		l.Warn("foreign protocol", attrs...)
	})
}

func (l *eventLog) ConnectionError(err error) { l.Debug("connection error", "err", err) }

func (l *eventLog) Panicked(p *smtpd.PanicError) {
	l.Error("internal error", "panic", p.Value, "stack", string(p.Stack))
}

func (l *eventLog) AuthOK(id auth.Identity, state *tls.ConnectionState) {
	version := ""
	if state != nil {
		version = strings.ReplaceAll(tls.VersionName(state.Version), " ", "")
	}
	l.Info("auth ok", "user", id.User, "mech", id.Mechanism, "store", id.Store, "tls", version)
}

// AuthError implements SessionEvents. Only "auth failed" is a guess at a password, and
// what fail2ban reads. "auth delayed" is an attempt that was not examined.
//
// A known client with a wrong password that has to wait like an unknown one gets the reply of
// "auth delayed", but it was examined.
func (l *eventLog) AuthError(mech string, err error, abandoned bool) {
	failure, _ := errors.AsType[*auth.Failure](err)
	unavailable, ok := errors.AsType[*auth.Unavailable](err)
	if !ok {
		unavailable = &auth.Unavailable{Err: err}
	}
	delayed := delayReason(err)
	if delayed != "" && unavailable.Refused != nil {
		refused := *unavailable.Refused
		refused.Login, failure = unavailable.Login, &refused
	}
	var late []any
	if abandoned {
		late = []any{"abandoned", true}
	}
	switch {
	case failure != nil:
		reason := failure.Kind.String()
		if failure.Reason != "" {
			reason += ": " + failure.Reason
		}
		l.Warn("auth failed", append([]any{"user", failure.Login, "mech", mech, "store", failure.Store, "reason", reason}, late...)...)
	case errors.Is(err, auth.ErrMalformed):
		l.Warn("auth malformed", "mech", mech)
	case delayed != "":
		l.limit.log("auth delayed", l.client, func(count int) {
			l.Warn("auth delayed", "user", unavailable.Login, "mech", mech, "reason", delayed, "count", count)
		})
	default:
		if unavailable.Unanswered {
			late = append(late, "counted", true)
		}
		l.Error("auth unavailable", append([]any{"user", unavailable.Login, "mech", mech, "store", unavailable.Store, "err", unavailable.Err}, late...)...)
	}
}

// delayReason returns why the throttle has not let a login be verified in time, or "".
func delayReason(err error) string {
	switch {
	case errors.Is(err, throttle.ErrPenalty):
		return "too many guesses from this address"
	case errors.Is(err, throttle.ErrLoginBusy):
		return "too many guesses for this user"
	}
	return ""
}

func (l *eventLog) AuthAbandoned(mech, user string) {
	if user == "" {
		l.Info("auth abandoned", "mech", mech)
		return
	}
	l.Info("auth abandoned", "mech", mech, "user", user)
}

// AuthUnfinished implements SessionEvents. A client that asks for the salts of many logins tries
// to find out which of them exist.
func (l *eventLog) AuthUnfinished(mech, login string) {
	l.limit.log("auth unfinished", l.client, func(count int) {
		l.Warn("auth unfinished", "user", login, "mech", mech, "count", count)
	})
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
	hop, byHop := errors.AsType[*relay.RefusedError](r.Reply.Cause)
	if byHop {
		attrs = append(attrs, slog.String("hop", hop.Hop))
	}
	if r.Reply.Cause != nil && r.Reply.Cause != error(hop) {
		attrs = append(attrs, slog.Any("err", r.Reply.Cause))
	}
	if r.Argument != "" && r.To == "" {
		attrs = append(attrs, slog.String("argument", r.Argument))
	}
	l.LogAttrs(context.Background(), slog.LevelWarn, "refused", attrs...)
}

// UnknownClient implements SessionEvents. The lines are limited, since a health check may be
// refused every second.
func (l *eventLog) UnknownClient(r smtpd.Refusal) {
	l.limit.log("unknown client", l.client, func(count int) {
		l.Warn("unknown client", "command", r.Verb, "code", r.Reply.Code, "count", count,
			"hint", "the PROXY header names no client, so only health checks are allowed; have the proxy send the client's address")
	})
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

const (
	// lineEvery is the time from one line of an address to the next.
	lineEvery = time.Minute

	// limitedAddresses is the number of addresses tracked; further ones share one
	// entry.
	limitedAddresses = 4096
)

// A logLimit keeps clients from filling the log with events that cost them nothing. The
// first event of an address is logged at once; the following ones are counted, and
// logged together once a minute. Each event is counted in one line. The line of the
// last ones is written when their minute is over and the next call is made.
//
// It is for lines that only people read. "auth failed" is not among them, as fail2ban
// counts it. A nil logLimit limits nothing. Its methods may be called by any goroutine.
type logLimit struct {
	mu    sync.Mutex
	known map[limitedLine]*list.Element
	order list.List // of *limited; the oldest line comes first
}

type limitedLine struct {
	event string
	from  netip.Prefix // zero: all addresses beyond limitedAddresses
}

type limited struct {
	limitedLine
	logged time.Time       // the last line
	since  int             // events that no line has counted
	line   func(count int) // of the last of them
}

func newLogLimit() *logLimit { return &logLimit{known: make(map[limitedLine]*list.Element)} }

// log calls line now, or later for this event and others.
func (l *logLimit) log(event string, client netip.Addr, line func(count int)) {
	if l == nil {
		line(1)
		return
	}
	l.sweep()
	if l.first(limitedLine{event, netprefix.Client(client)}, line) {
		line(1)
	}
}

// sweep writes the lines that are due.
func (l *logLimit) sweep() {
	if l == nil {
		return
	}
	for _, due := range l.due(time.Now()) {
		due()
	}
}

// first reports whether the event is to be logged now, and counts it otherwise.
func (l *logLimit) first(key limitedLine, line func(count int)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.known[key]
	if !ok && len(l.known) >= limitedAddresses {
		key.from = netip.Prefix{}
		e, ok = l.known[key]
	}
	if !ok {
		l.known[key] = l.order.PushBack(&limited{limitedLine: key, logged: time.Now()})
		return true
	}
	waiting := e.Value.(*limited)
	waiting.since++
	waiting.line = line
	return false
}

// due returns the lines whose minute is over. An address without further events is
// forgotten.
func (l *logLimit) due(now time.Time) (lines []func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.order.Front(); e != nil; e = l.order.Front() {
		over := e.Value.(*limited)
		if now.Sub(over.logged) < lineEvery {
			break
		}
		if over.since == 0 {
			l.order.Remove(e)
			delete(l.known, over.limitedLine)
			continue
		}
		count, line := over.since, over.line
		lines = append(lines, func() { line(count) })
		over.logged, over.since, over.line = now, 0, nil
		l.order.MoveToBack(e)
	}
	return lines
}
