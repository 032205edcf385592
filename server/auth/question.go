package auth

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"postern/server/auth/throttle"
)

// A Question is the verification of one login: of a password, of a proof, or of a message
// that is passed to a backend with mechanisms. Every mechanism verifies by [Question.Verify],
// which is the only place where the throttle learns the outcome.
//
// A client that hangs up does not end the question, otherwise it could avoid the penalty of
// every refusal that takes longer than an acceptance. The question keeps its slot at the
// store and its place in the throttle until it has a verdict, which is reported by
// [Background.Report]. It ends at the deadline of the reply, at the timeout of the store, or
// at the end of [Background.Context].
type Question struct {
	Throttle *throttle.Throttle
	Peer     *Peer
	Login    string // as the client sent it; empty if it is not known
	Secret   string // by which a repeated wrong password is recognised; may be empty

	// Ask returns the verdict, as [PasswordVerifier] does, or [ErrContinue]. It runs in
	// another goroutine than Verify, and may run on after Verify has returned.
	Ask func(ctx context.Context, p *Peer) (Identity, error)
}

// A Background is what a question needs of the session, which may end before the question.
// Its functions are called by the goroutine of the question, except for Hold.
type Background struct {
	// Context ends when the server shuts down.
	Context context.Context

	// Hold is called before the question begins. It keeps the stores open until release
	// is called, exactly once.
	Hold func() (release func())

	// Report is called once for each [ErrPending], with the result that Verify would have
	// returned. That is [ErrAbandoned] if the login was not verified.
	Report func(id Identity, err error)
}

var (
	// ErrPending means that the client has hung up, and that the verdict will be
	// reported.
	ErrPending = errors.New("auth: the client has hung up; the verification continues")

	// ErrAbandoned means that the login was not verified, because the client had hung up
	// before, or because the server is shutting down.
	ErrAbandoned = errors.New("auth: the login was not verified")

	// ErrContinue is returned by Question.Ask if there is no verdict, but a challenge for
	// the client.
	ErrContinue = errors.New("auth: the exchange continues")

	errShutdown = errors.New("the server is shutting down")
)

// Verify asks for the verdict when the throttle allows it. After a wrong password of a known
// pair, it waits for as long as another login would have waited. If the client hangs up
// during the verification, it returns [ErrPending] at once. A panic of Ask continues in the
// caller, as a [*Panic].
func (q Question) Verify(ctx context.Context) (Identity, error) {
	attempt, err := q.Throttle.Acquire(ctx, q.Peer.Remote.Addr(), q.Login)
	if err != nil {
		return Identity{}, err
	}
	v := q.begin(ctx, attempt)
	select {
	case <-v.done:
	case <-ctx.Done():
		// The deadline of the reply ends the question, too.
		if errors.Is(ctx.Err(), context.Canceled) && v.state.CompareAndSwap(asking, abandoned) {
			return Identity{}, ErrPending
		}
		<-v.done
	}
	if p, ok := errors.AsType[*Panic](v.err); ok {
		panic(p)
	}
	return v.id, awaitAnswer(ctx, attempt, v.err)
}

// awaitAnswer returns the refusal err when the client may learn it. A known client that
// would have been refused without verification, if it were unknown, gets a temporary error.
func awaitAnswer(ctx context.Context, attempt *throttle.Attempt, err error) error {
	waiting := attempt.AwaitAnswer(ctx)
	if waiting == nil || errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	return &Unavailable{Err: waiting, Refused: refusalOf(err)}
}

// refusalOf returns the Failure of a login that was refused by at least one store, or nil.
func refusalOf(err error) *Failure {
	if u, ok := errors.AsType[*Unavailable](err); ok {
		return u.Refused
	}
	return asFailure(err)
}

// A verification is a question that is being asked.
type verification struct {
	Question
	attempt *throttle.Attempt
	asked   *asked
	state   atomic.Int32
	done    chan struct{} // closed when the state is answered
	id      Identity
	err     error
}

// The states of a verification. The first change decides whether Verify returns the verdict
// or reports it later.
const (
	asking = iota
	answered
	abandoned
)

// asked is in the context of a question.
type asked struct {
	client context.Context // ends when the client hangs up
	store  atomic.Bool     // a store has been asked
}

type askedKey struct{}

// begin asks in another goroutine.
func (q Question) begin(ctx context.Context, attempt *throttle.Attempt) *verification {
	v := &verification{
		Question: q, attempt: attempt, asked: &asked{client: ctx}, done: make(chan struct{}),
		err: errors.New("the verification has not returned"),
	}
	peer := *q.Peer // the session's own is not changed
	peer.Known = attempt.Known
	background := q.Peer.Background
	if background == nil {
		background = &Background{Context: context.Background(), Hold: func() func() { return func() {} }, Report: func(Identity, error) {}}
	}
	release := background.Hold()
	own, end := v.context(ctx, background.Context)
	go func() {
		defer release()
		defer end()
		defer v.finish(own, background)
		v.id, v.err = v.call(own, &peer)
	}()
	return v
}

// context returns the context of the question: with the values and the deadline of the step,
// but not ended by the client.
func (v *verification) context(step, background context.Context) (context.Context, context.CancelFunc) {
	own := context.WithValue(context.WithoutCancel(step), askedKey{}, v.asked)
	own, shutDown := context.WithCancelCause(own)
	stop := context.AfterFunc(background, func() { shutDown(errShutdown) })
	end := func() {
		stop()
		shutDown(nil)
	}
	if deadline, ok := step.Deadline(); ok {
		timed, cancel := context.WithDeadline(own, deadline)
		return timed, func() {
			cancel()
			end()
		}
	}
	return own, end
}

// call calls Ask, and turns a panic into an error.
func (v *verification) call(ctx context.Context, p *Peer) (id Identity, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &Panic{value, debug.Stack()}
		}
	}()
	return v.Ask(ctx, p)
}

// finish passes the verdict to the throttle, and then to Verify or, if the client has hung
// up, to the session.
func (v *verification) finish(own context.Context, background *Background) {
	if errors.Is(context.Cause(own), errShutdown) && v.err != nil && asFailure(v.err) == nil {
		v.err = ErrAbandoned
	}
	// An exchange that continues has no outcome, and neither has a success whose login is
	// unknown.
	if errors.Is(v.err, ErrContinue) || v.err == nil && v.Login == "" {
		v.attempt.Yield()
	} else {
		v.attempt.Done(OutcomeOf(v.err, v.id, v.Secret))
	}
	if v.state.CompareAndSwap(asking, answered) {
		close(v.done)
		return
	}
	if !v.asked.store.Load() && v.err != nil && asFailure(v.err) == nil {
		v.err = ErrAbandoned
	}
	if v.err != nil && !errors.Is(v.err, ErrAbandoned) && !errors.Is(v.err, ErrContinue) {
		v.err = WithLogin(v.err, v.Login)
	}
	background.Report(v.id, v.err)
}

// OutcomeOf returns what the throttle counts of an attempt that ended with err. No error
// is a success of id. A *Failure of the kinds NoSuchUser, Unknowable and BadPassword is a
// wrong guess, and so is an *Unavailable with a Refused of the kind BadPassword. An
// *Unavailable that is Unanswered has no verdict, but is not innocent. Every other error does
// not count against the client. secret may be empty; see [throttle.Outcome].
func OutcomeOf(err error, id Identity, secret string) throttle.Outcome {
	switch {
	case err == nil:
		return throttle.Outcome{Result: throttle.Success, User: id.Store + "\x00" + id.User}
	case isGuess(err):
		return throttle.Outcome{Result: throttle.WrongGuess, Secret: secret}
	}
	u, ok := errors.AsType[*Unavailable](err)
	switch {
	// One store has found the password wrong while another one did not answer.
	// NoSuchUser does not count: the user may be one of the other store.
	case ok && u.Refused != nil && u.Refused.Kind == BadPassword:
		return throttle.Outcome{Result: throttle.WrongGuess, Secret: secret}
	case ok && u.Unanswered:
		return throttle.Outcome{Result: throttle.Unanswered, Secret: secret}
	}
	return throttle.Outcome{}
}

// isGuess reports whether err means that login or password are wrong. The other kinds
// of failure are for clients that sent the right password.
func isGuess(err error) bool {
	f := asFailure(err)
	return f != nil && (f.Kind == NoSuchUser || f.Kind == Unknowable || f.Kind == BadPassword)
}

// A Panic is a panic of a question: a bug. Value may contain a password.
type Panic struct {
	Value any
	Stack []byte // of the goroutine of the question
}

func (p *Panic) Error() string { return fmt.Sprintf("panic with a %T", p.Value) }
