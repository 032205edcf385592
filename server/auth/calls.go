package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"postern/internal/semaphore"
	"postern/server/auth/throttle"
)

var (
	// ErrBusy is the cause of a temporary error: all slots of the store were in use, and
	// none became free in time.
	ErrBusy = errors.New("auth: too many logins are waiting for this store")

	// ErrSlow is the cause of a temporary error: the store did not answer within its
	// timeout.
	ErrSlow = errors.New("no answer within its timeout")
)

// Calls bounds the calls of one store: their number, the share of each address and of each
// login, and their time. It also knows whether the store answers, so that a login without an
// answer is innocent only while other logins have none, either. Its methods may be called by
// many goroutines at once.
type Calls struct {
	timeout     time.Duration
	concurrency int
	slots       *semaphore.Fair
	abandoned   atomic.Int32 // waiting for a slot although the client has hung up
	answers     answers
}

// NewCalls returns Calls with a number of slots. Each call may wait as long as timeout for a
// slot, and take the same time again.
func NewCalls(timeout time.Duration, concurrency int) *Calls {
	return &Calls{timeout: timeout, concurrency: concurrency, slots: semaphore.NewShared(concurrency)}
}

// Do makes one call of the store for p and login. An error of call that is no Failure, after
// [Asking] without an answer, becomes an *Unavailable with Unanswered if the store answers
// other logins. The deadline of ctx, that of the reply to the client, can end both waits
// earlier.
func (c *Calls) Do(ctx context.Context, p *Peer, login string, call func(context.Context) error) error {
	turn := p.Turn(login)
	if err := c.acquire(ctx, turn); err != nil {
		return outOfTime(ctx, "while the login waited for other logins at this store", err)
	}
	defer c.slots.Release(turn)
	calling, cancel := context.WithTimeoutCause(ctx, c.timeout, ErrSlow)
	defer cancel()
	begun, state := time.Now(), new(callState)
	err := call(context.WithValue(calling, callKey{}, state))
	if err == nil || asFailure(err) != nil {
		if state.answered.Load() > 0 {
			c.answers.add(login)
		}
		return err
	}
	if errors.Is(err, ErrContinue) || errors.Is(err, ErrMechanism) {
		return err
	}
	if errors.Is(context.Cause(calling), ErrSlow) {
		err = fmt.Errorf("%w of %v: %w", ErrSlow, c.timeout, err)
	}
	err = outOfTime(ctx, "before the store answered", err)
	if state.asked.Load() > state.answered.Load() && c.answers.others(login, begun, c.timeout) {
		u := asUnavailable(err)
		u.Unanswered = true
		return u
	}
	return err
}

// acquire waits for a slot. A question that no store has been asked ends when its client
// hangs up, so that clients that have gone do not wait, and their number is bounded by the
// slots. After another store has been asked, it waits on, because the verdict needs all
// stores; the number of these is bounded, too.
func (c *Calls) acquire(ctx context.Context, turn semaphore.Turn) error {
	waiting, cancel := context.WithTimeoutCause(ctx, c.timeout, ErrBusy)
	defer cancel()
	question, ok := ctx.Value(askedKey{}).(*asked)
	if !ok {
		return c.slots.Acquire(waiting, turn)
	}
	present, leave := context.WithCancelCause(waiting)
	defer leave(nil)
	defer context.AfterFunc(question.client, func() {
		if errors.Is(question.client.Err(), context.Canceled) { // its deadline is that of ctx, too
			leave(context.Cause(question.client))
		}
	})()
	err := c.slots.Acquire(present, turn)
	if err == nil {
		question.store.Store(true)
		return nil
	}
	if waiting.Err() != nil || !question.store.Load() {
		return err
	}
	defer c.abandoned.Add(-1)
	if c.abandoned.Add(1) > int32(c.concurrency) {
		return err
	}
	return c.slots.Acquire(waiting, turn)
}

// outOfTime adds to err at which point the deadline of ctx ended the login.
func outOfTime(ctx context.Context, where string, err error) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("the time for the reply was over %s: %w", where, err)
}

// A callState counts what was sent to the store in one call.
type callState struct{ asked, answered atomic.Int32 }

type callKey struct{}

// Asking is called by a backend when it sends a password or a proof, with the ctx of the
// call, and answered when it has received an answer of any kind. A call that ends in between
// has no verdict: the store hangs, has lost the connection, or is slower than its timeout. A
// client could recognise a refusal by that, so it may count as a guess. Whatever precedes,
// such as a connection that cannot be made, never counts.
func Asking(ctx context.Context) (answered func()) {
	state, ok := ctx.Value(callKey{}).(*callState)
	if !ok {
		return func() {}
	}
	state.asked.Add(1)
	return func() { state.answered.Add(1) }
}

// answers has the time of the last verdict of a store, and of the last one before it for
// another login. Logins that are not known are different ones.
type answers struct {
	mu          sync.Mutex
	last, other struct {
		login string
		when  time.Time
	}
}

// add notes a verdict.
func (a *answers) add(login string) {
	login = throttle.Fold(login)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last.login != login || login == "" {
		a.other = a.last
	}
	a.last.login, a.last.when = login, time.Now()
}

// others reports whether the store has given a verdict for another login since begun, or
// within the last timeout.
func (a *answers) others(login string, begun time.Time, timeout time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	answer := a.last
	if answer.login == throttle.Fold(login) && login != "" {
		answer = a.other
	}
	return !answer.when.IsZero() && (!answer.when.Before(begun) || time.Since(answer.when) <= timeout)
}
