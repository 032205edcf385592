// Package dedup suppresses duplicates: messages that a client sends again because it has
// not seen the 250 for them.
//
// RFC 5321, section 4.5.3.2.6, and RFC 1047: a client that does not see the reply to its
// final dot has to send the message again, and its recipients get it twice. [Receipts]
// remember for a while what the next hop has accepted, and the 250 is repeated, with its
// queue id, instead of sending the message again. docs/protocol.md ("Messages that come
// again") lists what clients can rely on.
//
// [Receipts.Before] is a [relay.Decorator], and the first one of a chain: what comes after
// it may add a signature, or keep the message in a spool. It passes on what it does not
// need. A message is the same as another if the user, the sender, the parameters, the set
// of recipients and the content are the same; the content is compared by
// Envelope.Digest, of the bytes as the client sent them. Without a Digest a message passes
// unchanged.
//
// Whether a client has seen its 250 is known later, and only to the server: it calls
// Receipt.Seen. Whether the hop has a message to the end of which it has not replied in
// time is known later, too: that reply is awaited in the background ([relay.OverdueError]).
//
//	dedup     the decorator, the key of a message, late replies, and what is logged
//	receipts  the table of messages
//
// Everything is in memory. A restart forgets it, and a message that is repeated after that
// is sent again.
package dedup

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
)

// Before is a relay.Decorator.
func (r *Receipts) Before(next relay.NextHop) relay.NextHop { return &hop{next, r} }

// A hop is a NextHop that sends a message to the NextHop in it unless it is a duplicate.
type hop struct {
	relay.NextHop
	receipts *Receipts
}

// Begin implements relay.NextHop.
func (h *hop) Begin(ctx context.Context, e *relay.Envelope) (relay.Transaction, error) {
	t, err := h.NextHop.Begin(ctx, e)
	if err != nil {
		return nil, err
	}
	return &transaction{Transaction: t, receipts: h.receipts, envelope: e}, nil
}

type transaction struct {
	relay.Transaction
	receipts   *Receipts
	envelope   *relay.Envelope
	recipients []string // those that were accepted, with their parameters, as fields of the key
}

// Rcpt implements relay.Transaction.
func (t *transaction) Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error {
	err := t.Transaction.Rcpt(ctx, to, opts)
	if err == nil {
		t.recipients = append(t.recipients, recipientField(to, opts))
	}
	return err
}

// A busyError is returned for a message that another session is still sending, or whose
// 250 the client may have seen or not, when the time for the reply is over. The client
// keeps the message and tries again, so nothing is lost.
type busyError struct{ cause error }

var errBusy = &smtp.SMTPError{
	Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0},
	Message: "The same message is on its way already; try again later",
}

func (e busyError) Error() string   { return e.cause.Error() }
func (e busyError) Unwrap() []error { return []error{errBusy, e.cause} }

// Send implements relay.Transaction. If the client has sent the same message before and has
// not seen its 250, the receipt is that of the first one, and nothing is sent.
//
// Another session may be sending the message: the client gave up waiting and came again.
// Or it may not be known yet whether the client has seen the 250: it came again on a new
// connection, and the old one has not ended. In both cases Send waits for the outcome.
func (t *transaction) Send(ctx context.Context, m *message.Message) (relay.Receipt, error) {
	if t.envelope.Digest == ([sha256.Size]byte{}) {
		return t.Transaction.Send(ctx, m)
	}
	e, again, err := t.receipts.claim(ctx, keyOf(t.envelope, t.recipients), t.envelope)
	if err != nil {
		return relay.Receipt{}, busyError{err}
	}
	if !again {
		if err := t.sendFirst(ctx, m, e); err != nil {
			return relay.Receipt{}, err
		}
	}
	receipt := relay.Receipt{Hop: e.hop, Text: e.text, Seen: func(seen bool) { t.receipts.seen(e, seen) }}
	if again {
		receipt.First = e.message
	}
	return receipt, nil
}

// sendFirst sends a message and fills in its entry. After an error the entry is forgotten,
// unless a late reply will decide what becomes of it.
func (t *transaction) sendFirst(ctx context.Context, m *message.Message, e *entry) error {
	settled := false
	defer func() {
		if !settled { // after a panic, too
			t.receipts.forget(e)
		}
	}()
	receipt, err := t.Transaction.Send(ctx, m)
	if err == nil {
		settled = true
		t.receipts.answered(e, receipt)
		return nil
	}
	if overdue, ok := errors.AsType[*relay.OverdueError](err); ok {
		if settled = t.await(overdue, e); settled {
			return overdue.Err
		}
	}
	return err
}

// maxAwaited is the number of late replies that are awaited at the same time. Each has a
// connection to the next hop, which is busy with the message anyway.
const maxAwaited = 64

// await takes over waiting for an overdue reply, in a goroutine, which Close ends. It
// reports false if there are too many; then the caller keeps the error.
func (t *transaction) await(overdue *relay.OverdueError, e *entry) bool {
	r, envelope, recipients := t.receipts, t.envelope, len(t.recipients)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.awaited >= maxAwaited {
		return false
	}
	r.awaited++
	r.awaiting.Go(func() {
		receipt, err := overdue.Await(r.ctx)
		if err != nil {
			r.events.NoLateAnswer(envelope, err)
			r.forget(e)
		} else {
			r.events.AcceptedLate(envelope, recipients, receipt, time.Since(envelope.Begun))
			r.arm(e, receipt)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.awaited--
	})
	return true
}

// A key identifies one message of one user: SHA-256 of everything that must be the same.
type key [sha256.Size]byte

// keyOf is the key of a message. The order of recipients is not part of it, nor how often
// one of them is named. A client that has not logged in is identified by its address.
func keyOf(e *relay.Envelope, recipients []string) key {
	user := "login " + e.Login
	if e.Login == "" {
		user = "address " + e.Remote.Addr().String()
	}
	o := &e.Options
	utf8 := "ascii"
	if o.UTF8 {
		utf8 = "utf8"
	}
	all := appendFields(nil, user, e.Users, e.Sender, string(o.Body), utf8, string(o.Return), o.EnvelopeID, string(e.Digest[:]))
	all = binary.AppendVarint(all, o.Size)
	recipients = slices.Clone(recipients)
	slices.Sort(recipients)
	all = appendFields(all, slices.Compact(recipients)...)
	return sha256.Sum256(all)
}

// recipientField is a recipient with its parameters. opts may be nil.
func recipientField(address string, opts *smtp.RcptOptions) string {
	fields := []string{address, "", ""}
	if opts != nil {
		fields[1], fields[2] = string(opts.OriginalRecipientType), opts.OriginalRecipient
		for _, n := range opts.Notify {
			fields = append(fields, string(n))
		}
		slices.Sort(fields[3:]) // RFC 3461, section 4.1: a list in any order
	}
	return string(appendFields(nil, fields...))
}

// appendFields writes fields so that no two lists look the same: their number, then the
// length of each before it.
func appendFields(b []byte, fields ...string) []byte {
	b = binary.AppendUvarint(b, uint64(len(fields)))
	for _, f := range fields {
		b = binary.AppendUvarint(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}

// Events receives what happens to a message after its client has received 451. Its methods
// are called by many goroutines at once. The server logs duplicates itself (Receipt.First).
// [NewLog] makes one that writes the log; docs/log.md lists the events.
type Events interface {
	AcceptedLate(e *relay.Envelope, recipients int, receipt relay.Receipt, took time.Duration)
	NoLateAnswer(e *relay.Envelope, err error)
}

type eventLog struct{ *slog.Logger }

// NewLog returns Events that are written to l, with the keys of the session first.
func NewLog(l *slog.Logger) Events { return eventLog{l} }

func (l eventLog) session(e *relay.Envelope) *slog.Logger {
	return l.With("session", e.Session, "listener", e.Listener, "client", e.Remote.Addr().String())
}

func (l eventLog) AcceptedLate(e *relay.Envelope, recipients int, receipt relay.Receipt, took time.Duration) {
	l.session(e).Info("accepted late", "message", e.Message, "user", e.Login, "from", e.Sender, "nrcpt", recipients,
		"hop", receipt.Hop, "queue_id", receipt.QueueID(), "reply", receipt.Text, "took_ms", took.Milliseconds())
}

func (l eventLog) NoLateAnswer(e *relay.Envelope, err error) {
	l.session(e).Info("no late answer", "message", e.Message, "user", e.Login, "from", e.Sender, "err", err)
}
