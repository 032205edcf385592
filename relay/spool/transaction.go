package spool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
)

// A front is the NextHop that the server sends messages to.
type front struct {
	spool *Spool
	next  relay.NextHop
}

// Caps implements relay.NextHop. It assumes that a hop that is down will offer the same
// as before.
func (f *front) Caps() relay.Caps { return f.next.Caps() }

// Begin implements relay.NextHop.
func (f *front) Begin(ctx context.Context, e *relay.Envelope) (relay.Transaction, error) {
	inner, err := f.next.Begin(ctx, e)
	if err != nil {
		return nil, err
	}
	return &transaction{spool: f.spool, env: e, inner: inner}, nil
}

// A transaction uses the hop until that does not reply, and from then on the spool.
type transaction struct {
	spool  *Spool
	env    *relay.Envelope
	inner  relay.Transaction
	to     []recipient
	length int   // of to as JSON, at most
	silent error // why the hop is not asked any more; nil while it is
	over   bool
}

// Rcpt implements relay.Transaction.
func (t *transaction) Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error {
	if t.silent != nil {
		if err := relay.CheckRecipient(t.env, to, opts); err != nil {
			return err
		}
		return t.promise(to, opts)
	}
	err := t.inner.Rcpt(ctx, to, opts)
	if err == nil {
		t.add(to, opts)
		return nil
	}
	if !unanswered(ctx, err) {
		return err
	}
	t.giveUp(err)
	return t.promise(to, opts)
}

// unanswered reports that the hop did not reply. It is false for the hop's own refusal,
// for a client that has disconnected, and for a message that may have arrived: whether to
// send that again is the client's decision.
func unanswered(ctx context.Context, err error) bool {
	var refusal *smtp.SMTPError
	return !errors.As(err, &refusal) && !relay.IsUncertain(err) && !errors.Is(ctx.Err(), context.Canceled)
}

func (t *transaction) giveUp(reason error) {
	t.silent = reason
	_ = t.inner.Close() // it has failed already
}

// promise accepts a recipient in place of the hop, if the spool has room.
func (t *transaction) promise(to string, opts *smtp.RcptOptions) error {
	if !t.spool.ledger.room(max(0, t.env.Options.Size)) {
		return fmt.Errorf("spool: %w: %w", errFull, t.silent)
	}
	if t.length+jsonLength(to, opts) > maxEnvelope/4*3 {
		return errTooMany
	}
	t.add(to, opts)
	return nil
}

func (t *transaction) add(to string, opts *smtp.RcptOptions) {
	t.to = append(t.to, newRecipient(to, opts))
	t.length += jsonLength(to, opts)
}

// jsonLength bounds the length of a recipient in the file: JSON makes up to six
// octets of one (\u003c), and needs punctuation and field names.
func jsonLength(to string, opts *smtp.RcptOptions) int {
	n := 6*len(to) + 200
	if opts != nil {
		n += 6 * (len(opts.OriginalRecipient) + len(opts.OriginalRecipientType))
	}
	return n
}

// Send implements relay.Transaction.
func (t *transaction) Send(ctx context.Context, m *message.Message) (relay.Receipt, error) {
	if t.over {
		return relay.Receipt{}, errors.New("spool: the transaction is over")
	}
	t.over = true
	if t.silent == nil {
		receipt, err := t.inner.Send(ctx, m)
		if err == nil || !unanswered(ctx, err) {
			return receipt, err
		}
		t.giveUp(err)
	}
	return t.keep(m)
}

func (t *transaction) keep(m *message.Message) (relay.Receipt, error) {
	if !m.Reopenable() {
		return relay.Receipt{}, &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "Message header is too large"}
	}
	h := &header{Arrived: time.Now(), Reason: t.silent.Error(), Envelope: newEnvelope(t.env), To: t.to}
	id, err := t.spool.keep(h, m)
	if err != nil {
		return relay.Receipt{}, err
	}
	t.spool.events.Spooled(MessageEvent{t.env.Session, id, t.env.Sender}, len(t.to), m.Size(), t.silent)
	return relay.Receipt{Hop: "spool", Text: "2.0.0 Ok: queued as " + id}, nil
}

// Close implements relay.Transaction.
func (t *transaction) Close() error {
	t.over = true
	return t.inner.Close()
}
