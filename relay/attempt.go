package relay

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Between two attempts to reach hops that have all failed.
const (
	firstBackOff = 50 * time.Millisecond
	lastBackOff  = time.Second
)

// brokenPerHop is how many fresh connections to each hop may break in the
// middle of one transaction before that counts as the answer. Hops that
// cannot be reached at all are tried until patience runs out.
const brokenPerHop = 2

// errStale means that a connection from the pool broke. The hop may have closed it
// while it was idle, which does not count against the hop.
var errStale = errors.New("the connection had been in use before")

// try has do done on a connection, on another one if that breaks, and on
// other hops, until a hop has answered or patience is at its end. do gets a
// ctx that ends when it is not worth asking any longer.
func (t *transaction) try(ctx context.Context, do func(context.Context, *conn) error) error {
	start := time.Now()
	asking, cancel := context.WithTimeout(ctx, max(0, t.patience)+t.router.cfg.CommandTimeout)
	defer cancel()
	for wait := firstBackOff; ; wait = min(2*wait, lastBackOff) {
		begun := time.Now()
		err := t.attempt(asking, do)
		if answered(err) {
			t.patience -= begun.Sub(start)
			return err
		}
		left := t.patience - time.Since(start)
		if !t.worthAnother(err, left-wait) || !sleep(asking, t.pause(err, wait)) {
			t.patience = left
			return fmt.Errorf("no next hop took it: %w", err)
		}
	}
}

// answered reports that err is final: success, the hop's own refusal, or an
// end of data without an answer.
func answered(err error) bool {
	return err == nil || isRefusal(err) || errors.Is(err, errUncertain) || errors.Is(err, errClosed)
}

// worthAnother reports whether another attempt is to be made when left
// remains of the patience.
func (t *transaction) worthAnother(err error, left time.Duration) bool {
	switch {
	case errors.Is(err, errStale):
		return true
	case t.broken >= brokenPerHop*len(t.router.hops):
		return false
	}
	return left >= 0 || t.untried()
}

// pause is how long to wait before the next attempt: not at all, if it is
// something new.
func (t *transaction) pause(err error, wait time.Duration) time.Duration {
	if errors.Is(err, errStale) || t.untried() {
		return 0
	}
	return wait
}

// untried reports that the next hop to try has not failed yet.
func (t *transaction) untried() bool { return t.failures[t.router.choose(t.failures)] == 0 }

// sleep reports whether ctx is still good after d.
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
// none.
func (t *transaction) attempt(ctx context.Context, do func(context.Context, *conn) error) error {
	if t.conn == nil {
		t.hop, t.sent = t.router.choose(t.failures), 0
		c, err := t.hop.connect(ctx, t.env.user(), t.stale)
		if err != nil {
			t.fail(t.hop)
			return fmt.Errorf("%s: %w", t.hop, err)
		}
		t.conn = c
	}
	err := do(ctx, t.conn)
	switch {
	case errors.Is(err, errUncertain):
		if !t.leaveBehind() {
			t.discard()
		}
	case !answered(err):
		err = t.blame(err)
		t.discard()
	}
	return err
}

// blame notes why the connection broke. Only one stale connection per
// transaction is possible, since none but fresh ones are used after it.
func (t *transaction) blame(err error) error {
	if t.conn.reused {
		t.stale = true
		return fmt.Errorf("%s: %w: %w", t.hop, errStale, err)
	}
	t.fail(t.hop)
	t.broken++
	return fmt.Errorf("%s: %w", t.hop, err)
}

func (t *transaction) fail(h *Hop) {
	if t.failures == nil {
		t.failures = map[*Hop]int{}
	}
	t.failures[h]++
}
