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

// A front is the NextHop that clients' messages meet.
type front struct {
	spool *Spool
	next  relay.NextHop
}

// Caps implements relay.NextHop. What the hop could do when it was there, it
// will do when it is back.
func (f *front) Caps() relay.Caps { return f.next.Caps() }

// Begin implements relay.NextHop.
func (f *front) Begin(ctx context.Context, e *relay.Envelope) (relay.Transaction, error) {
	inner, err := f.next.Begin(ctx, e)
	if err != nil {
		return nil, err
	}
	return &transaction{spool: f.spool, env: e, inner: inner}, nil
}

// A transaction is with the hop until that does not answer, and from then on
// with the spool.
type transaction struct {
	spool  *Spool
	env    *relay.Envelope
	inner  relay.Transaction
	to     []recipient
	length int   // of to, roughly
	silent error // why the hop is not asked any more
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

// unanswered tells silence of the hop from its own refusal, from a client that
// has left, and from a message that may have arrived: to send that again is
// the client's decision.
func unanswered(ctx context.Context, err error) bool {
	var refusal *smtp.SMTPError
	return !errors.As(err, &refusal) && !relay.IsUncertain(err) && !errors.Is(ctx.Err(), context.Canceled)
}

func (t *transaction) giveUp(reason error) {
	t.silent = reason
	_ = t.inner.Close() // it has failed already
}

// promise accepts a recipient in the place of the hop, if the spool can keep
// that promise.
func (t *transaction) promise(to string, opts *smtp.RcptOptions) error {
	if !t.spool.ledger.room(max(0, t.env.Options.Size)) {
		return fmt.Errorf("spool: %w: %w", errFull, t.silent)
	}
	// Twice the length of what json may double, and its punctuation.
	if t.length+2*len(to)+200 > maxEnvelope/2 {
		return errTooMany
	}
	t.add(to, opts)
	return nil
}

func (t *transaction) add(to string, opts *smtp.RcptOptions) {
	t.to = append(t.to, newRecipient(to, opts))
	t.length += 2*len(to) + 200
	if opts != nil {
		t.length += 2 * len(opts.OriginalRecipient)
	}
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
	t.spool.log.Warn("message spooled", "session", t.env.Session, "queue_id", id, "from", t.env.Sender, "nrcpt", len(t.to), "size", m.Size(), "err", t.silent)
	return relay.Receipt{Hop: "spool", Text: "2.0.0 Ok: queued as " + id}, nil
}

// Close implements relay.Transaction.
func (t *transaction) Close() error {
	t.over = true
	return t.inner.Close()
}
