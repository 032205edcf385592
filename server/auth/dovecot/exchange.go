package dovecot

import (
	"context"
	"errors"
	"sync"
	"time"

	"postern/server/auth"
	"postern/server/auth/throttle"
)

var (
	errNoAnswer = errors.New("dovecot did not answer in time")
	errOver     = errors.New("the exchange is over")
)

// An exchange is a SASL conversation between a client and Dovecot.
type exchange struct {
	proxy     Proxy
	peer      *auth.Peer
	mech      string
	deadline  time.Time   // of the whole exchange
	expiry    *time.Timer // calls release then, whether a step is running or not
	overheard overheard

	id   auth.Identity
	last bool // the client is to acknowledge the last message, and id holds
	over bool // the exchange has ended

	mu       sync.Mutex
	request  *request // nil until the first message
	released bool
}

// Identity implements auth.Exchange.
func (x *exchange) Identity() auth.Identity { return x.id }

// Close implements auth.Exchange. It cancels the request to Dovecot.
func (x *exchange) Close() error {
	x.expiry.Stop()
	x.release()
	return nil
}

// Next implements auth.Exchange.
func (x *exchange) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	if x.last {
		err := x.acknowledged(response)
		return nil, err == nil, err
	}
	if x.over {
		return nil, false, auth.ErrMalformed
	}
	ctx, cancel := context.WithDeadlineCause(ctx, x.deadline, errExchangeTime)
	defer cancel()
	a, err := x.step(ctx, response)
	if err != nil {
		x.over = true
		x.release()
		return nil, false, x.named(err)
	}
	if a.verb == verbCont {
		return a.data, false, nil
	}
	x.over = true
	if len(a.data) == 0 {
		return nil, true, nil
	}
	// RFC 4954, section 4: SMTP's success has no room for a last message of the
	// mechanism. It is a challenge, to which the client answers nothing.
	x.last = true
	return a.data, false, nil
}

// acknowledged judges the answer to the last message.
func (x *exchange) acknowledged(response []byte) error {
	x.last = false
	if len(response) > 0 {
		x.id = auth.Identity{}
		return auth.ErrMalformed
	}
	return nil
}

// named adds the login, as far as it is known, to errors that are not the
// client's.
func (x *exchange) named(err error) error {
	if errors.Is(err, auth.ErrMechanism) || errors.Is(err, auth.ErrMalformed) {
		return err
	}
	return auth.WithLogin(err, x.overheard.login)
}

// step takes the client's message to Dovecot when its turn has come. An answer
// without an error is a challenge, or an OK and the identity is set.
func (x *exchange) step(ctx context.Context, response []byte) (a answer, err error) {
	if err := x.overheard.take(response); err != nil {
		return answer{}, err
	}
	// "You begin" is no guess.
	if response == nil {
		return x.ask(ctx, response)
	}
	attempt, err := x.proxy.Throttle.Acquire(ctx, x.peer.Remote.Addr(), x.overheard.login)
	if err != nil {
		return answer{}, unavailable(err)
	}
	outcome := context.Canceled // undecided, if the step panics
	defer func() { x.done(ctx, attempt, a, outcome) }()
	a, err = x.ask(ctx, response)
	outcome = err
	return a, err
}

// done ends the attempt. Only an exchange that has come to an end has an outcome, and
// only one whose login is known can have succeeded for it.
//
// A client that has gone before the answer, or that has sent its last message when the
// time was almost up, counts as one that guesses: Dovecot refuses 2 seconds later than it
// accepts, so a client that does not wait that long knows the answer all the same.
func (x *exchange) done(ctx context.Context, attempt *throttle.Attempt, a answer, err error) {
	if err == nil && (a.verb == verbCont || x.overheard.login == "") {
		attempt.Yield()
		return
	}
	outcome := auth.OutcomeOf(err, x.id.User, x.overheard.password)
	if err != nil && ctx.Err() != nil {
		outcome = throttle.Outcome{Result: throttle.WrongGuess, Secret: x.overheard.password}
	}
	attempt.Done(outcome)
}

// ask asks Dovecot and sets the identity if the answer is OK.
func (x *exchange) ask(ctx context.Context, response []byte) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, x.proxy.timeout(), errNoAnswer)
	defer cancel()
	a, err := x.send(ctx, response)
	if err != nil {
		if errors.Is(err, auth.ErrMechanism) || errors.Is(err, errTooLong) {
			return answer{}, err
		}
		return answer{}, unavailable(err)
	}
	if a.verb == verbCont {
		return a, nil
	}
	id, err := a.verdict()
	id.Mechanism = x.mech
	x.id = id
	return a, err
}

// send begins the exchange with Dovecot, or goes on with it.
func (x *exchange) send(ctx context.Context, response []byte) (answer, error) {
	if r := x.begun(); r != nil {
		return r.ask(ctx, contLine(r.id, response))
	}
	r, err := x.proxy.link.open(ctx, x.mech)
	if err != nil {
		return answer{}, err
	}
	if err := x.hold(r); err != nil {
		return answer{}, err
	}
	return r.ask(ctx, authLine(r.id, x.mech, x.peer, response))
}

func (x *exchange) begun() *request {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.request
}

// hold keeps the request, for release to cancel.
func (x *exchange) hold(r *request) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.released {
		r.cancel()
		return errOver
	}
	x.request = r
	return nil
}

// release cancels the request at Dovecot, unless Dovecot has ended it.
func (x *exchange) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.released = true
	if x.request != nil {
		x.request.cancel()
	}
}
