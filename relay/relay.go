// Package relay sends messages to the next hop, usually the Postfix on the same machine.
//
// The server sees a [NextHop] and the [Transaction] that it begins. The NextHop of the
// server is a [Chain]: decorators in the order duplicate suppression, DKIM signature,
// spool, and at the end the [Router] that [New] makes.
//
// Nothing is lost: a Receipt is returned only after the hop has replied 250 to the end of
// the data. In doubt, the error is temporary.
//
// The files of the package, from the outside to the network:
//
//	relay        the interfaces, Chain and Events
//	config       the section [relay] and the URLs of hops
//	route        selects a hop, tracks which hops are up and what all of them can do
//	transaction  sender and recipients, repeated on other connections and hops if necessary
//	pool, slots  few connections for many clients, and their fair division among users
//	peer         connects: TLS (RFC 3207), EHLO, AUTH (RFC 4954)
//	conn         MAIL, RCPT, the body, RSET, QUIT and late replies on one connection (RFC 5321)
//	command      validates addresses and parameters; writes MAIL and RCPT
//	reply        reads replies within bounds, and turns them into errors and receipts
//	check        tests the connection to a hop for "postern check"
//
// go-smtp's client sends EHLO and AUTH; replyReader, which is stricter than the client,
// does everything else. The package does not look up MX records and keeps no queue
// (package spool does), and it never sends a message to only some of its recipients.
//
// To add a step for all messages, such as a milter, write a package below this one with a
// [Decorator], and add it to the list in cmd/postern/internal/app that makes the Chain.
// To add a way to connect, add a scheme of [HopURL] and a case in peer.greet. A command
// before each message, such as XCLIENT, is a new file with a method of conn, a field of
// extensions that peer.greet sets, and a call in transaction.mail. A reason to replace a
// connection is a case in pool.put, and another division among users is another type with
// the methods of slots.
package relay

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/emersion/go-smtp"

	"postern/internal/share"
	"postern/relay/message"
)

// A NextHop takes messages. Its methods are called by many sessions at once.
type NextHop interface {
	// Begin starts a transaction. It does not connect yet. It fails only if the NextHop
	// has been closed, and for similar reasons.
	Begin(ctx context.Context, e *Envelope) (Transaction, error)

	// Caps returns what all hops that a message may go to can do, as far as is known.
	Caps() Caps
}

// A Transaction carries one message. It is used by one goroutine at a time.
// Each ctx bounds its call only.
//
// An error that is a *smtp.SMTPError (errors.As) is a refusal by the hop and may be shown
// to the client. Its Message may have several lines, separated by "\n"; the enhanced code
// is in EnhancedCode only and in none of them, so that the server can put it on each (RFC
// 2034, section 4). Any other error means that the hop could not be asked: it is
// temporary, and its text is for the log.
type Transaction interface {
	// Rcpt asks the hop about one recipient; the first call sends MAIL, too. to is in
	// the form for the command, at most MaxAddress octets, and quoted where it must be.
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

	// Send sends the message to all recipients that Rcpt accepted: all or nothing. The
	// caller still has to close m. If the error is an *OverdueError, the caller must do
	// what is asked for there.
	Send(ctx context.Context, m *message.Message) (Receipt, error)

	// Close ends the transaction and cancels it if nothing was sent. It may be called
	// more than once.
	Close() error
}

// A Receipt names the hop that has the message, and has the text of its 250.
type Receipt struct {
	Hop string // as in the configuration, without credentials

	// Text is one line of at most 400 octets: the enhanced code, once, if there is one,
	// and the hop's text, with its queue id.
	Text string

	// First is the id of the message that was sent to the hop, if the client has sent the
	// same message again; otherwise it is empty.
	First string

	// Seen, if it is not nil, must be called once, as soon as it is known whether the
	// client has seen the 250. Any goroutine may call it.
	Seen func(seen bool)
}

// An OverdueError is returned by Send if the time was over and the hop had sent nothing in
// reply to the end of the data, so that it is not known whether it has the message
// (IsUncertain is true). The connection is still open. The caller of Send must call either
// Await or Abandon, exactly once, or return the error to its own caller.
type OverdueError struct {
	Err error

	// Await waits for the reply, and closes the connection. It may be called by any
	// goroutine, after the end of the transaction, too, and returns when the reply has
	// come, when ctx ends, or after ten minutes. An error means that the hop has refused
	// the message, or that it will never be known whether the hop has it.
	Await func(ctx context.Context) (Receipt, error)

	// Abandon closes the connection without waiting.
	Abandon func()
}

func (e *OverdueError) Error() string { return e.Err.Error() }
func (e *OverdueError) Unwrap() error { return e.Err }

// Abandon calls Abandon of the OverdueError that err is, if it is one.
func Abandon(err error) {
	if overdue, ok := errors.AsType[*OverdueError](err); ok {
		overdue.Abandon()
	}
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

// A Chain is a NextHop that passes each message through several steps to the last hop.
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
// message. The server fills it; nothing but Digest is changed after Begin.
type Envelope struct {
	Session   string // session id, for the log
	Message   string // id of the message, for the log
	Begun     time.Time
	Listener  string
	Remote    netip.AddrPort
	Helo      string
	Login     string // canonical user, empty without authentication
	Users     string // which stores Login is a user of, if the listener has its own; "" means the shared ones
	Mechanism string

	// MaySign is whether the message may get a signature of the domain in its From field:
	// the client has authenticated or is in mynetworks, or the message is a report of this
	// server. The From field of any other message is anybody's claim.
	MaySign bool

	Sender string // in the form that goes into the command, without brackets; empty for <>

	// Options are SIZE, BODY, SMTPUTF8, RET and ENVID as the client sent them; never
	// Auth. EnvelopeID is the value of ENVID still encoded as xtext, which is not what
	// go-smtp's server and client put there: dsn.ValidEnvelopeID must be true, or it
	// must be empty. It goes to the hop unchanged.
	Options smtp.MailOptions

	// Digest is SHA-256 of the message as the client sent it. It is zero where nothing
	// needs it; otherwise the server sets it before Send.
	Digest [sha256.Size]byte
}

// Owner returns whose share of memory, disk and spool the message counts for: that of the
// user, or, without a login, that of the client's network, apart for clients in mynetworks.
func (e *Envelope) Owner() share.Owner {
	switch {
	case e.Login != "":
		return share.User(e.Users, e.Login)
	case e.MaySign:
		return share.TrustedClient(e.Remote.Addr())
	}
	return share.Client(e.Remote.Addr())
}

// Events receives everything that the log and the metrics need to know of the next hops.
// Its methods are called by many goroutines at once and must not block. [NewLog] makes
// one that writes the log; docs/log.md lists the events.
type Events interface {
	HopDown(hop string, err error)
	HopUp(hop string)

	// DSNDropped reports that parameters of a message are lost, once per transaction.
	DSNDropped(session, hop, reason string)

	ConnectionLost(hop, command string, err error) // after the command, while the pool resets it
	ConnectionRetired(hop string, c Retired)
}

// Retired is a connection that is not used again, though it works.
type Retired struct {
	Reason    string
	Delivered int // messages
	Refusals  int // since the last delivered message
	Releases  int // likewise: returned to the pool with a transaction open
}

// An eventLog writes the events to a log, one line each.
type eventLog struct{ *slog.Logger }

// NewLog returns Events that are written to l.
func NewLog(l *slog.Logger) Events { return eventLog{l} }

func (l eventLog) HopDown(hop string, err error) { l.Warn("next hop down", "hop", hop, "err", err) }

func (l eventLog) HopUp(hop string) { l.Info("next hop up", "hop", hop) }

func (l eventLog) DSNDropped(session, hop, reason string) {
	l.Info("DSN parameters dropped", "session", session, "hop", hop, "reason", reason)
}

func (l eventLog) ConnectionLost(hop, command string, err error) {
	l.Debug("connection lost", "hop", hop, "at", command, "err", err)
}

func (l eventLog) ConnectionRetired(hop string, c Retired) {
	l.Debug("connection retired", "hop", hop, "reason", c.Reason,
		"delivered", c.Delivered, "refusals", c.Refusals, "give_backs", c.Releases)
}
