package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
)

// The pause between two attempts after all hops have failed. It doubles from firstBackOff
// up to lastBackOff.
const (
	firstBackOff = 50 * time.Millisecond
	lastBackOff  = time.Second
)

// brokenPerHop is how many new connections to each hop may break in the middle of one
// transaction before the transaction fails. Hops that cannot be reached at all are
// tried until patience runs out.
const brokenPerHop = 2

var (
	// errStale means that a connection from the pool broke. It does not count as a failure
	// of the hop, which may have closed the connection while it was idle.
	errStale = errors.New("the connection had been in use before")

	errOver = errors.New("relay: the transaction is over")
)

// A transaction asks a hop about each recipient and later sends the message. It may
// lose its connection in between, because the body is slow and the connection goes
// back to the pool, or because the connection breaks. Then MAIL and RCPT are
// repeated on another one before the message is sent.
type transaction struct {
	router *Router
	env    *Envelope
	user   string // the login, or the IP address: connections are shared fairly among users

	// mu serialises the caller and the timer of hold.
	mu       sync.Mutex
	accepted []recipient
	over     bool

	hop  *Hop      // the hop of conn
	conn *conn     // nil while there is none
	sent int       // how many of accepted have been sent on conn
	hold *idleHold // while conn waits for the next call

	patience   time.Duration // what is left of it
	failures   map[*Hop]int  // nil while there are none
	broken     int           // new connections that broke
	stale      bool          // an idle connection turned out to be closed: use new ones only
	dsnDropped bool          // the loss of DSN parameters has been reported
}

// Rcpt implements Transaction.
func (t *transaction) Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return errOver
	}
	t.endHold()
	defer func() {
		if t.conn != nil {
			t.hold = t.hop.pool.hold(t.yield)
		}
	}()
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
	var refused refusals
	for _, r := range t.accepted {
		err := t.rcpt(ctx, c, r)
		// If c is not open, the sender was refused.
		if err != nil && (!c.open || !refused.add(r.address, err)) {
			return err
		}
		if len(refused.names) == maxRefusals {
			break
		}
	}
	return refused.err()
}

// mail passes on only options that were validated, and never the client's AUTH=
// (see mailCommand).
func (t *transaction) mail(ctx context.Context, c *conn, size int64) error {
	given := t.env.Options
	opts := &smtp.MailOptions{Size: max(0, size), UTF8: given.UTF8, Return: given.Return, EnvelopeID: given.EnvelopeID}
	t.checkDSN(c, opts.Return != "" || opts.EnvelopeID != "")
	return c.mail(ctx, t.env.Sender, opts)
}

func (t *transaction) rcpt(ctx context.Context, c *conn, r recipient) error {
	t.checkDSN(c, len(r.notify) > 0 || r.original != "")
	return c.rcpt(ctx, r)
}

// checkDSN reports, once, that DSN parameters are lost because the hop does not offer
// DSN.
func (t *transaction) checkDSN(c *conn, wanted bool) {
	if wanted && !c.caps.DSN && !t.dsnDropped {
		t.dsnDropped = true
		t.router.events.DSNDropped(t.env.Session, t.hop.String(), "the hop does not offer DSN any more")
	}
}

// refusals are the recipients that a hop accepted at first and then refused.
type refusals struct {
	names []string
	first *smtp.SMTPError
}

// add reports whether err was a refusal.
func (l *refusals) add(address string, err error) bool {
	e, ok := errors.AsType[*smtp.SMTPError](err)
	if !ok {
		return false
	}
	l.names = append(l.names, "<"+address+">")
	// A temporary refusal takes precedence: the client's next attempt asks about all recipients again.
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

// try calls do with a connection, with another one if that breaks, and with connections to
// other hops, until a hop has replied or patience has run out. The context of do ends
// CommandTimeout after the patience.
func (t *transaction) try(ctx context.Context, do func(context.Context, *conn) error) error {
	start := time.Now()
	asking, cancel := context.WithTimeout(ctx, max(0, t.patience)+t.router.cfg.CommandTimeout)
	defer cancel()
	for wait := firstBackOff; ; wait = min(2*wait, lastBackOff) {
		begun := time.Now()
		final, err := t.attempt(asking, do)
		if final {
			t.patience -= begun.Sub(start)
			return err
		}
		left := t.patience - time.Since(start)
		if pause, again := t.nextAttempt(err, left, wait); !again || !sleep(asking, pause) {
			t.patience = left
			return fmt.Errorf("no next hop accepted it: %w", err)
		}
	}
}

// nextAttempt reports whether to make another attempt after err, and after which pause,
// when left remains of the patience. A new connection after a stale one, and a hop that has
// not failed yet, are tried at once, even without patience.
func (t *transaction) nextAttempt(err error, left, wait time.Duration) (pause time.Duration, again bool) {
	switch {
	case errors.Is(err, errStale):
		return 0, true
	case t.broken >= brokenPerHop*len(t.router.hops):
		return 0, false
	case t.failures[t.router.choose(t.failures)] == 0:
		return 0, true
	}
	return wait, left >= wait
}

// sleep waits for d and reports whether ctx has not ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// attempt calls do once, with the current connection, or with a new one if there is
// none. It returns whether that ends the attempts: after success, a refusal by the hop, or
// an end of data without a reply, or because the router is closed.
func (t *transaction) attempt(ctx context.Context, do func(context.Context, *conn) error) (final bool, err error) {
	if t.conn == nil {
		t.hop, t.sent = t.router.choose(t.failures), 0
		c, err := t.hop.connect(ctx, t.user, t.stale)
		if err != nil {
			t.countFailure()
			return errors.Is(err, errClosed), fmt.Errorf("%s: %w", t.hop, err)
		}
		t.conn = c
	}
	err = do(ctx, t.conn)
	switch {
	case err == nil || isRefusal(err):
		return true, err
	case errors.Is(err, errUncertain):
		if t.conn.overdue {
			return true, t.overdue(err)
		}
		t.discard()
		return true, err
	case t.conn.reused:
		// This happens only once in a transaction: it uses new connections from now on.
		t.stale = true
		t.discard()
		return false, fmt.Errorf("%s: %w: %w", t.hop, errStale, err)
	}
	t.countFailure()
	t.broken++
	t.discard()
	return false, fmt.Errorf("%s: %w", t.hop, err)
}

// overdue removes the connection from the pool, because a reply on it is overdue. So a slow
// message does not delay others.
func (t *transaction) overdue(err error) *OverdueError {
	c, hop := t.conn, t.hop
	hop.pool.slots.release(c.user)
	t.conn, t.sent = nil, 0
	await := func(ctx context.Context) (Receipt, error) {
		text, err := c.lateReply(ctx)
		if err != nil {
			return Receipt{}, fmt.Errorf("%s: %w", hop, err)
		}
		return Receipt{Hop: hop.String(), Text: text}, nil
	}
	return &OverdueError{Err: err, Await: await, Abandon: func() { c.raw.Close() }}
}

func (t *transaction) countFailure() {
	if t.failures == nil {
		t.failures = map[*Hop]int{}
	}
	t.failures[t.hop]++
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
		t.release()
	}
}

func (t *transaction) release() {
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

func (t *transaction) endHold() {
	if t.hold != nil {
		t.hop.pool.endHold(t.hold)
		t.hold = nil
	}
}

// yield returns the connection to the pool because the body is slow. If the caller has used
// the transaction at the same moment, k is no longer the current hold, and the transaction
// keeps the connection.
func (t *transaction) yield(k *idleHold) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hold == k {
		t.endHold()
		t.release()
	}
}
