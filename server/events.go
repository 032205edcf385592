package server

import (
	"crypto/tls"
	"net/netip"
	"time"

	"postern/policy"
	"postern/relay"
	"postern/server/auth"
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
	Dropped() // to make room for another client
	HandshakeFailed(err error)
	ForeignProtocol(protocol string)
	ConnectionError(err error)
	Panicked(p *smtpd.PanicError)

	AuthOK(id auth.Identity, state *tls.ConnectionState)
	AuthError(mechanism string, err error)
	AuthAbandoned(mechanism string) // by the client, or because of a shutdown

	Refused(r Refused)
	RejectWarning(r *policy.Request, warning string) // of warn_if_reject

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
