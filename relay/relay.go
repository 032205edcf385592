// Package relay sends messages to the next hop, usually the Postfix on the
// same machine.
//
// The server sees a [NextHop] and the [Transaction] that it begins. A NextHop may be
// one SMTP server, a pool of connections, a router over several hops, a DKIM signer,
// a milter or a spool. Decorators hold another NextHop; their order is milter, sign,
// spool, route, pool, hop.
//
// Nothing is lost: a Receipt is returned only after the hop has replied 250
// to the end of data. In doubt, the error is temporary.
//
// This package itself holds the innermost NextHop, the [Router] that [New]
// makes:
//
//	route        which of several hops, whether it is up, and what all of them can do
//	transaction  the sender and recipients so far, to be repeated on another connection
//	attempt      another connection, another hop, patience
//	late         a reply that comes after Send has given up
//	pool         few connections for many clients; queue shares them out
//	hop, conn    one SMTP server (RFC 5321, STARTTLS RFC 3207, AUTH RFC 4954)
//	envelope     which addresses and parameters may go to a hop
//	command      MAIL and RCPT with their parameters, and the body: clean, dot-stuffed
//	wire, reply  the form and bounds of a reply, and what a client sees of it
//
// go-smtp's client sends EHLO and authenticates; the wire, which is stricter than the
// client is, does everything else. What the relay leaves out: it looks up no MX
// records, keeps no queue (package spool does), and never sends a message to only
// some of its recipients.
//
// To add a next hop of another kind, write a package below this one with a
// type that holds a NextHop (or is one), begins a transaction of the inner
// one in Begin, and passes on what it does not change. A new way to reach an
// SMTP peer is a scheme of [HopURL] and a case in peer.greet.
package relay

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
)

// A NextHop takes messages. Its methods are called by many sessions at once.
type NextHop interface {
	// Begin starts a transaction. It does not connect yet, and fails only for
	// reasons such as the NextHop having been closed.
	Begin(ctx context.Context, e *Envelope) (Transaction, error)

	// Caps returns what all hops that a message may go to can do, as far as is known.
	Caps() Caps
}

// A Transaction carries one message. It is used by one goroutine at a time.
// Each ctx bounds its call only.
//
// An error that is a *smtp.SMTPError (errors.As) is the hop's own refusal and
// may be shown to the client. Its Message may have several lines, separated by "\n"; the
// enhanced code is in EnhancedCode only and in none of them, so that the server can put
// it on each (RFC 2034, section 4). Any other error means that the hop could not be
// asked: temporary, with the cause for the log.
type Transaction interface {
	// Rcpt asks the hop about one recipient; the first call sends MAIL, too. to is in
	// the form that goes into the command, at most MaxAddress octets, and quoted where
	// it must be.
	//
	// opts may be nil. Of its fields, Notify, OriginalRecipientType and
	// OriginalRecipient are passed on. The latter two are the parts of ORCPT as the
	// client sent them: the address type, an atom in any case, and the address, still
	// encoded as xtext or, for the type utf-8, as RFC 6533, section 3, asks for
	// (dsn.ValidOriginalRecipient). That is not what go-smtp's server and client put
	// there. An address in UTF-8 is converted to ASCII for a hop or a message
	// without SMTPUTF8, or left out if it is too long then.
	//
	// A value that is not valid is refused with a *smtp.SMTPError, 501, without asking
	// the hop. So are the sender and the options of the Envelope.
	Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error

	// Send sends the message to all recipients that Rcpt accepted: all or nothing.
	// The caller still has to close m.
	Send(ctx context.Context, m *message.Message) (Receipt, error)

	// Close ends the transaction and cancels it if nothing was sent. It is
	// idempotent.
	Close() error
}

// A Receipt names the hop that has the message, and has the text of its 250.
type Receipt struct {
	Hop string // as in the configuration, without credentials

	// Text is one line of at most 400 octets: the enhanced code, once, if there is one,
	// and the hop's text, with its queue id.
	Text string
}

// Caps is what the next hop can do. The zero value is that of a hop that has not been
// asked yet: nothing that depends on it is offered to clients.
type Caps struct {
	Known    bool  // some hop has been asked
	Size     int64 // largest message in bytes; 0 means no limit known
	DSN      bool  // RFC 3461
	SMTPUTF8 bool  // RFC 6531
	EightBit bool  // RFC 6152
}

// A Decorator returns a NextHop that adds something to next, such as a signature. The
// new NextHop begins a transaction of next in Begin and passes on what it does not
// change. If it has a Close method, the chain calls it.
type Decorator func(next NextHop) NextHop

// A Chain is a NextHop that takes each message through several steps to the last hop.
type Chain struct {
	NextHop
	steps []NextHop // in the order in which a message meets them
}

// NewChain makes a chain of decorators, in the order in which a message meets them, and
// the hop that they lead to. Nil decorators are left out.
func NewChain(last NextHop, decorators ...Decorator) *Chain {
	c := &Chain{NextHop: last, steps: []NextHop{last}}
	for _, decorate := range slices.Backward(decorators) {
		if decorate != nil {
			c.NextHop = decorate(c.NextHop)
			c.steps = append(c.steps, c.NextHop)
		}
	}
	slices.Reverse(c.steps)
	return c
}

// Close closes each step that has a Close method, in the reverse of the order in which
// they were made: the first step first and the last hop last, so that each step can use
// the following ones until it is closed. No transaction may be open any more.
func (c *Chain) Close() error {
	var all []error
	for _, step := range c.steps {
		if closer, ok := step.(io.Closer); ok {
			all = append(all, closer.Close())
		}
	}
	return errors.Join(all...)
}

// An Envelope is everything but the recipients that the relay needs to know about a
// message. The server fills it; it is not changed after Begin.
type Envelope struct {
	Session   string // session id, for the log
	Listener  string
	Remote    netip.AddrPort
	Helo      string
	Login     string // canonical user, empty without authentication
	Mechanism string

	Sender string // in the form that goes into the command, without brackets; empty for <>

	// Options are SIZE, BODY, SMTPUTF8, RET and ENVID as the client sent them; never
	// Auth. EnvelopeID is the value of ENVID still encoded as xtext, which is not what
	// go-smtp's server and client put there: dsn.ValidEnvelopeID must be true, or it
	// must be empty. It goes to the hop unchanged.
	Options smtp.MailOptions

	// Late, if it is not nil, takes over waiting for a reply that is overdue. Send calls
	// it, at most once, before it returns an error for which IsUncertain is true, if
	// the time was over and the hop had sent nothing in reply to the end of the data.
	// If Late returns true, it must call await, in another goroutine: Send waits until
	// Late returns. If it returns false, or is nil, the connection is closed and the
	// fate of the message stays unknown. A decorator that makes another Envelope
	// passes Late on.
	Late func(await Await) bool
}
