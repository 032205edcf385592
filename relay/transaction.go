package relay

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
)

// maxNamed is the number of recipients that one refusal lists.
const maxNamed = maxRefusals

var errOver = errors.New("relay: the transaction is over")

// A transaction asks a hop about each recipient and later sends the message. It may
// lose its connection in between, because the body is slow and the connection goes
// back to the pool, or because the connection breaks. Then MAIL and RCPT are
// repeated on another one before the message is sent.
type transaction struct {
	router *Router
	env    *Envelope

	// mu serialises the caller and the timer of hold.
	mu       sync.Mutex
	accepted []recipient
	over     bool

	hop  *Hop      // the hop of conn
	conn *conn     // nil while there is none
	sent int       // how many of accepted have been sent on conn
	hold *idleHold // while conn waits for the next call

	patience time.Duration // what is left of it
	failures map[*Hop]int  // nil while there are none
	broken   int           // new connections that broke
	stale    bool          // an idle connection turned out to be closed: use no idle one
	noted    bool          // the loss of DSN parameters has been logged
}

// Rcpt implements Transaction.
func (t *transaction) Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return errOver
	}
	t.endHold()
	defer t.beginHold()
	if err := checkSender(t.env); err != nil {
		return err
	}
	r, err := newRecipient(to, opts, t.env.Options.UTF8)
	if err != nil {
		return err
	}
	if t.conn != nil && t.conn.nearErrorLimit() {
		t.retire()
	}
	// On a new connection, r is sent alone; the earlier recipients are repeated when
	// there is a message for them.
	err = t.try(ctx, func(ctx context.Context, c *conn) error {
		if !c.open {
			t.sent = 0
			if err := t.mail(ctx, c, t.env.Options.Size); err != nil {
				return err
			}
		}
		return t.rcpt(ctx, c, r)
	})
	if err == nil {
		t.accepted = append(t.accepted, r)
		t.sent++
	}
	return err
}

// mail passes on only options that were validated, and never the client's AUTH=
// (see mailCommand).
func (t *transaction) mail(ctx context.Context, c *conn, size int64) error {
	given := t.env.Options
	opts := &smtp.MailOptions{Size: max(0, size), UTF8: given.UTF8, Return: given.Return, EnvelopeID: given.EnvelopeID}
	if !c.caps.DSN && (opts.Return != "" || opts.EnvelopeID != "") {
		t.noteDSN()
	}
	return c.mail(ctx, t.env.Sender, opts)
}

func (t *transaction) rcpt(ctx context.Context, c *conn, r recipient) error {
	if !c.caps.DSN && r.wantsDSN() {
		t.noteDSN()
	}
	return c.rcpt(ctx, r)
}

// noteDSN logs, once, that DSN parameters are lost because the hop does not offer DSN.
func (t *transaction) noteDSN() {
	if t.noted {
		return
	}
	t.noted = true
	t.router.events.DSNDropped(t.env.Session, t.hop.String(), "the hop does not offer DSN any more")
}

// Send implements Transaction.
func (t *transaction) Send(ctx context.Context, m *message.Message) (Receipt, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return Receipt{}, errOver
	}
	defer t.end()
	if len(t.accepted) == 0 {
		return Receipt{}, &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 5, 1}, Message: "No valid recipients"}
	}
	t.endHold()
	if t.conn != nil && t.sent < len(t.accepted) && t.conn.nearErrorLimit() {
		t.retire()
	}
	var receipt Receipt
	err := t.try(ctx, func(asking context.Context, c *conn) error {
		err := t.ensureEnvelope(asking, c, m)
		if err != nil {
			return err
		}
		receipt.Hop = t.hop.String()
		receipt.Text, err = c.data(ctx, m)
		return err
	})
	if err != nil {
		return Receipt{}, err
	}
	return receipt, nil
}

// ensureEnvelope makes sure that the sender and all accepted recipients have been sent
// on c. If the hop refuses one of them now, the message is sent to none.
func (t *transaction) ensureEnvelope(ctx context.Context, c *conn, m *message.Message) error {
	if c.open && t.sent == len(t.accepted) {
		return nil
	}
	if c.open {
		if err := c.reset(ctx); err != nil {
			return err
		}
	}
	if err := t.mail(ctx, c, m.Size()); err != nil {
		return err
	}
	return t.replay(ctx, c)
}

func (t *transaction) replay(ctx context.Context, c *conn) error {
	var refused refusals
	for _, r := range t.accepted {
		err := t.rcpt(ctx, c, r)
		// Without c.open, it is the sender that was refused.
		if err != nil && (!c.open || !refused.add(r.address, err)) {
			return err
		}
		if len(refused.names) == maxNamed {
			break
		}
	}
	return refused.err()
}

// refusals are the recipients that a hop accepted at first and not again.
type refusals struct {
	names []string
	first *smtp.SMTPError
}

// add reports whether err was a refusal.
func (l *refusals) add(address string, err error) bool {
	var e *smtp.SMTPError
	if !errors.As(err, &e) {
		return false
	}
	l.names = append(l.names, "<"+address+">")
	// A temporary refusal wins: at the next attempt all are asked again.
	if l.first == nil || e.Temporary() && !l.first.Temporary() {
		l.first = e
	}
	return true
}

func (l *refusals) err() error {
	if l.first == nil {
		return nil
	}
	e := *l.first
	e.Message = cleanText(strings.Join(l.names, ", ") + " refused, message not sent: " + cleanLine(e.Message))
	return &e
}

// Close implements Transaction.
func (t *transaction) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end()
	return nil
}

// end releases the connection, if there is one.
func (t *transaction) end() {
	t.over = true
	t.endHold()
	if t.conn != nil {
		t.giveBack()
	}
}

func (t *transaction) giveBack() {
	t.hop.pool.put(t.conn)
	t.conn, t.sent = nil, 0
}

func (t *transaction) retire() {
	t.hop.pool.retire(t.conn, "refusals")
	t.conn, t.sent = nil, 0
}

func (t *transaction) discard() {
	t.hop.pool.discard(t.conn)
	t.conn, t.sent = nil, 0
}

func (t *transaction) beginHold() {
	if t.conn != nil {
		t.hold = t.hop.pool.hold(t.yield)
	}
}

func (t *transaction) endHold() {
	if t.hold != nil {
		t.hop.pool.endHold(t.hold)
		t.hold = nil
	}
}

// yield gives the connection back because the body is slow. If the caller has come
// back at the same moment, k is not current any more, and the connection stays.
func (t *transaction) yield(k *idleHold) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hold == k {
		t.endHold()
		t.giveBack()
	}
}
