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

// A hop is the NextHop that the server sends messages to.
type hop struct {
	spool *Spool
	next  relay.NextHop
}

// Caps implements relay.NextHop. It assumes that a hop that is down will offer the same
// as before.
func (h *hop) Caps() relay.Caps { return h.next.Caps() }

// Begin implements relay.NextHop.
func (h *hop) Begin(ctx context.Context, e *relay.Envelope) (relay.Transaction, error) {
	inner, err := h.next.Begin(ctx, e)
	if err != nil {
		return nil, err
	}
	return &transaction{spool: h.spool, env: e, inner: inner}, nil
}

// A transaction uses the hop until that does not reply, and from then on the spool.
type transaction struct {
	spool   *Spool
	env     *relay.Envelope
	inner   relay.Transaction
	to      []recipient
	length  int   // of to as JSON, at most
	hopDown error // why the spool is used; nil while the hop is used
	over    bool
}

// Rcpt implements relay.Transaction.
func (t *transaction) Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error {
	if t.hopDown != nil {
		if err := relay.CheckRecipient(t.env, to, opts); err != nil {
			return err
		}
		return t.accept(to, opts)
	}
	err := t.inner.Rcpt(ctx, to, opts)
	switch {
	case err == nil:
		t.add(to, opts)
		return nil
	case !noReply(ctx, err):
		return err
	}
	t.useSpool(err)
	return t.accept(to, opts)
}

// noReply reports whether err means that the hop did not reply. It does not for a refusal
// by the hop, for a client that has disconnected, and for a message that may have
// arrived: whether to send that again is the client's decision.
func noReply(ctx context.Context, err error) bool {
	var refusal *smtp.SMTPError
	return !errors.As(err, &refusal) && !relay.IsUncertain(err) && !errors.Is(ctx.Err(), context.Canceled)
}

func (t *transaction) useSpool(reason error) {
	t.hopDown = reason
	_ = t.inner.Close() // it has failed already
}

// accept accepts a recipient in place of the hop, if the spool has room.
func (t *transaction) accept(to string, opts *smtp.RcptOptions) error {
	if err := t.spool.index.check(t.env.Owner(), max(0, t.env.Options.Size)); err != nil {
		return fmt.Errorf("%w (the spool is used because of: %w)", err, t.hopDown)
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

// jsonLength bounds the length of a recipient in the file: JSON makes up to six octets of
// one (\u003c), and needs punctuation and field names.
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
	if t.hopDown == nil {
		receipt, err := t.inner.Send(ctx, m)
		if err == nil || !noReply(ctx, err) {
			return receipt, err
		}
		t.useSpool(err)
	}
	if !m.Reopenable() {
		return relay.Receipt{}, &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "Message header is too large"}
	}
	h := &header{Arrived: time.Now(), Reason: t.hopDown.Error(), Envelope: newEnvelope(t.env), To: t.to}
	id, err := t.spool.keep(h, m)
	if err != nil {
		return relay.Receipt{}, err
	}
	t.spool.events.Spooled(MessageEvent{t.env.Session, id, t.env.Sender}, len(t.to), m.Size(), t.hopDown)
	return relay.Receipt{Hop: "spool", Text: "2.0.0 Ok: queued as " + id}, nil
}

// Close implements relay.Transaction.
func (t *transaction) Close() error {
	t.over = true
	return t.inner.Close()
}
