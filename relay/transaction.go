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

// worstList bounds how many recipients one refusal names.
const worstList = maxRefusals

var errOver = errors.New("relay: the transaction is over")

// A transaction asks a hop about the recipients one by one and later hands
// over the message. In between it has its connection only on loan: when the
// body dawdles, or the connection breaks, all is asked again on another one
// before the message is sent.
type transaction struct {
	router *Router
	env    *Envelope

	// mu is between the transaction's one user and the timer of parking.
	mu       sync.Mutex
	accepted []recipient
	over     bool

	hop     *Hop     // whose connection it is
	conn    *conn    // nil while there is none
	held    int      // of accepted, those whom conn has been told
	parking *parking // while conn waits for the next call

	patience time.Duration // what is left of it
	failures map[*Hop]int  // nil while there are none
	broken   int           // fresh connections that broke
	stale    bool          // an idle connection turned out to be closed: trust none
	noted    bool          // the loss of DSN parameters has been logged
}

// Rcpt implements Transaction.
func (t *transaction) Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return errOver
	}
	t.unpark()
	defer t.park()
	r, err := t.check(to, opts)
	if err != nil {
		return err
	}
	if t.conn != nil && t.conn.worn() {
		t.retire()
	}
	err = t.try(ctx, func(ctx context.Context, c *conn) error { return t.ask(ctx, c, r) })
	if err == nil {
		t.accepted = append(t.accepted, r)
		t.held++
	}
	return err
}

func (t *transaction) check(to string, opts *smtp.RcptOptions) (recipient, error) {
	if err := checkSender(t.env); err != nil {
		return recipient{}, err
	}
	return newRecipient(to, opts, t.env.Options.UTF8)
}

// ask asks for r alone. If the connection is another one than before, the
// earlier recipients are told it when there is a message for them.
func (t *transaction) ask(ctx context.Context, c *conn, r recipient) error {
	if !c.open {
		t.held = 0
		if err := t.mail(ctx, c, t.env.Options.Size); err != nil {
			return err
		}
	}
	return t.rcpt(ctx, c, r)
}

// mail passes on only options that were looked at. The client's AUTH= would
// claim for the hop what only we know (RFC 4954 5).
func (t *transaction) mail(ctx context.Context, c *conn, size int64) error {
	given := t.env.Options
	opts := &smtp.MailOptions{Size: max(0, size), UTF8: given.UTF8, Return: given.Return, EnvelopeID: given.EnvelopeID}
	if opts.Return != "" || opts.EnvelopeID != "" {
		t.noteDSN(c)
	}
	return c.mail(ctx, t.env.Sender, opts)
}

func (t *transaction) rcpt(ctx context.Context, c *conn, r recipient) error {
	if r.wantsDSN() {
		t.noteDSN(c)
	}
	return c.rcpt(ctx, r)
}

// noteDSN says in the log what go-smtp does silently: the hop is not told of
// parameters that it does not know.
func (t *transaction) noteDSN(c *conn) {
	if c.caps.DSN || t.noted {
		return
	}
	t.noted = true
	t.router.log.Info("DSN parameters dropped", "session", t.env.Session, "hop", t.hop.String(), "reason", "the hop does not offer DSN any more")
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
	t.unpark()
	if t.conn != nil && t.held < len(t.accepted) && t.conn.worn() {
		t.retire()
	}
	var receipt Receipt
	err := t.try(ctx, func(asking context.Context, c *conn) error {
		err := t.gather(asking, c, m)
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

// gather makes sure that c has been told of the sender and of everybody whom
// a hop accepted. If c refuses one of them, nobody gets the message.
func (t *transaction) gather(ctx context.Context, c *conn, m *message.Message) error {
	if c.open && t.held == len(t.accepted) {
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
		// Without c.open it is the sender who was refused.
		if err != nil && (!c.open || !refused.add(r.address, err)) {
			return err
		}
		if len(refused.names) == worstList {
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
	// One who is to come again will be asked again about the others.
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

// end gives up what the transaction still has.
func (t *transaction) end() {
	t.over = true
	t.unpark()
	if t.conn != nil {
		t.giveBack()
	}
}

func (t *transaction) giveBack() {
	t.hop.pool.giveBack(t.conn)
	t.conn, t.held = nil, 0
}

func (t *transaction) retire() {
	t.hop.pool.retire(t.conn, "refusals")
	t.conn, t.held = nil, 0
}

func (t *transaction) discard() {
	t.hop.pool.discard(t.conn)
	t.conn, t.held = nil, 0
}

func (t *transaction) park() {
	if t.conn != nil {
		t.parking = t.hop.pool.park(t.yield)
	}
}

func (t *transaction) unpark() {
	if t.parking != nil {
		t.hop.pool.unpark(t.parking)
		t.parking = nil
	}
}

// yield gives the connection back because the body dawdles. Its user may
// have come back in the same moment; then it is not for yield to take.
func (t *transaction) yield(k *parking) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.parking == k {
		t.unpark()
		t.giveBack()
	}
}
