// Package relay hands messages to the next hop, usually the Postfix on the
// same machine.
//
// The server sees a [NextHop] and the [Transaction] that it begins; whether
// behind it stands one SMTP peer, a pool, a router over several hops, a DKIM
// signer, a milter or a spool is the relay's own business. Decorators hold
// another NextHop; their order is milter, sign, spool, route, pool, hop.
//
// Nothing is lost: a Receipt is returned only after the hop has answered 250
// to the end of data. If in doubt the error is temporary.
//
// This package itself holds the innermost NextHop, the [Router] that [New]
// makes:
//
//	route        which of several hops, and what all of them can do
//	health       whether a hop is up, found out before a message needs it
//	transaction  what a client has asked for so far, to be asked again elsewhere
//	attempt      another connection, another hop, patience
//	late         an answer that comes when Send has given up
//	pool         few connections for many clients; park and queue share them out
//	hop, conn    one SMTP peer (RFC 5321, STARTTLS RFC 3207, AUTH RFC 4954)
//	wire, reply  what a hop may say, and what of it a client gets to see
//	body         clean bytes only, dot-stuffed, ended once
//
// SMTP is spoken by go-smtp's client; the wire beneath it is stricter than
// the client is. What the relay leaves out: it looks up no MX records, keeps
// no queue (package spool does), and never sends a part of a message's recipients.
//
// To add a next hop of another kind, write a package below this one with a
// type that holds a NextHop (or is one), begins a transaction of the inner
// one in Begin, and passes on what it does not change. A new way to reach an
// SMTP peer is a scheme of [HopURL] and a case in peer.secure.
package relay

import (
	"context"
	"net/netip"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
)

// A NextHop takes messages. Its methods are called by many sessions at once.
type NextHop interface {
	// Begin starts a transaction. It talks to nobody yet and so fails only
	// for reasons of its own, such as having been closed.
	Begin(ctx context.Context, e *Envelope) (Transaction, error)

	// Caps says what every hop behind this one can do, as far as is known.
	Caps() Caps
}

// A Transaction carries one message. It is used by one goroutine at a time.
// Each ctx bounds its call only.
//
// An error that is a *smtp.SMTPError (errors.As) is the hop's own refusal and
// may be shown to the client. Any other error means that the hop could not be
// asked: temporary, cause for the log.
type Transaction interface {
	// Rcpt asks the hop for one recipient; the first call carries MAIL with
	// it. to is in the form that goes on the wire, quoted where it must be.
	Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error

	// Send hands over the message for all recipients that Rcpt accepted: all
	// or nothing. m stays the caller's.
	Send(ctx context.Context, m *message.Message) (Receipt, error)

	// Close ends the transaction and cancels it if nothing was sent. It is
	// idempotent.
	Close() error
}

// A Receipt says who took the message, and its text behind the 250.
type Receipt struct {
	Hop  string // as in the configuration, without credentials
	Text string // the hop's own text, with its queue id; one line
}

// Caps is what the next hop can do. The zero value is a hop of which nothing
// is known: nothing that depends on it is offered to clients.
type Caps struct {
	Known    bool  // some hop has been asked
	Size     int64 // largest message in bytes; 0 means no limit known
	DSN      bool  // RFC 3461
	SMTPUTF8 bool  // RFC 6531
	EightBit bool  // RFC 6152
}

// An Envelope is what the relay knows of a message before its recipients. It
// is a plain value, filled by the server and not changed once handed out.
type Envelope struct {
	Session   string // session id, for the log
	Listener  string
	Remote    netip.AddrPort
	Helo      string
	Login     string // canonical user, empty without authentication
	Mechanism string

	Sender  string           // in the form that goes on the wire, without brackets; empty for <>
	Options smtp.MailOptions // SIZE, BODY, SMTPUTF8, RET and ENVID as the client gave them; never Auth

	// Late, if it is not nil, is offered the wait for an answer that is
	// overdue: Send calls it, once at most, before it returns an error that
	// IsUncertain because its time was over and the hop had said nothing to
	// the end of the data. With true, await is Late's to call, in a goroutine
	// of its own: Send waits for Late to return. With false, and without
	// Late, the hop is hung up on and nobody learns what became of the
	// message. A decorator that makes an Envelope of its own hands it on.
	Late func(await Await) bool
}
