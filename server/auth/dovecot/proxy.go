package dovecot

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern/server/auth"
	"postern/server/auth/throttle"
)

// A Proxy is the auth.Provider that forwards the exchanges with clients to Dovecot. Its
// methods may be called by many sessions at once, and its fields must not be changed
// after the first call. It has the abilities of its store, too.
//
// No mechanism is offered without TLS. While there is no connection to Dovecot, the
// mechanisms of the last greeting are offered, so that clients get 454 and do not
// conclude that the server has no AUTH. Before the first greeting PLAIN and LOGIN are
// offered, as far as the options allow them.
type Proxy struct {
	*Store

	// Throttle delays clients that guess passwords. An exchange holds no turn while it
	// waits for the client: see throttle.Attempt.Yield.
	Throttle *throttle.Throttle

	// Options exclude mechanisms that Dovecot offers.
	Options auth.SecurityOptions

	// Calls bounds the time and the number of the steps at Dovecot.
	Calls *auth.Calls
}

var _ auth.Provider = Proxy{}

// exchangeTime bounds a whole exchange. Dovecot forgets an exchange after 150 seconds,
// and then answers its next message as if the password were wrong.
const exchangeTime = 2 * time.Minute

// Mechanisms implements auth.Provider.
func (x Proxy) Mechanisms(p *auth.Peer) []string {
	// RFC 4954, section 4: no plaintext password without TLS. Other mechanisms are not
	// offered either, since the commands after them would not be protected.
	if p.TLS == nil {
		return nil
	}
	x.link.refresh()
	mechanisms, seen := x.link.offered()
	if !seen { // what most installations of Dovecot offer
		mechanisms = []mechanism{{"PLAIN", auth.MechanismPlaintext}, {"LOGIN", auth.MechanismPlaintext}}
	}
	return x.allowed(mechanisms)
}

func (x Proxy) allowed(mechanisms []mechanism) []string {
	var allowed []string
	for _, m := range mechanisms {
		if x.Options.Allow(m.properties) {
			allowed = append(allowed, m.name)
		}
	}
	return allowed
}

// Start implements auth.Provider. Dovecot receives its first request with the client's
// first message.
func (x Proxy) Start(_ context.Context, p *auth.Peer, mech string) (auth.Exchange, error) {
	if !slices.Contains(x.Mechanisms(p), mech) {
		return nil, auth.ErrMechanism
	}
	e := &exchange{proxy: x, peer: p, mech: mech, deadline: time.Now().Add(exchangeTime)}
	e.observed.mech = mech
	e.expiry = time.AfterFunc(exchangeTime, e.release)
	return e, nil
}

// Probe opens a second connection and returns the mechanisms that Dovecot offers and the
// options allow. It returns an error if there is none.
func (x Proxy) Probe(ctx context.Context) ([]string, error) {
	offered, err := x.probe(ctx)
	if err != nil {
		return nil, err
	}
	allowed := x.allowed(offered)
	if len(allowed) == 0 {
		return nil, fmt.Errorf("security_options %v allow none of the mechanisms %s that Dovecot offers; "+
			"change auth_mechanisms in its configuration, or the options", x.Options, names(offered))
	}
	return allowed, nil
}

func names(mechanisms []mechanism) []string {
	var all []string
	for _, m := range mechanisms {
		all = append(all, m.name)
	}
	return all
}

var (
	errExchangeTime = errors.New("the client took too long to authenticate")
	errOver         = errors.New("the exchange is over")
)

// An exchange is a SASL exchange between a client and Dovecot.
type exchange struct {
	proxy    Proxy
	peer     *auth.Peer
	mech     string
	deadline time.Time   // of the whole exchange
	expiry   *time.Timer // calls release at the deadline, even during a step
	observed observed

	id   auth.Identity
	last bool // the client has to acknowledge the last message; id is valid
	over bool // the exchange has ended

	unfinished atomic.Pointer[string] // see Unfinished

	mu       sync.Mutex
	request  *request // nil until the first message
	running  bool     // a step is being asked, perhaps after the client has hung up
	released bool
}

// Identity implements auth.Exchange.
func (x *exchange) Identity() auth.Identity { return x.id }

// Close implements auth.Exchange. It cancels the request to Dovecot, unless a question is
// running on.
func (x *exchange) Close() error {
	x.expiry.Stop()
	x.release()
	return nil
}

// Unfinished returns the login if the client has got the salt of SCRAM, and has not answered; see
// [auth.Unfinished].
func (x *exchange) Unfinished() *string { return x.unfinished.Load() }

// Next implements auth.Exchange.
func (x *exchange) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	switch {
	case x.last && len(response) > 0:
		x.last, x.id = false, auth.Identity{}
		return nil, false, auth.ErrMalformed
	case x.last:
		x.last = false
		return nil, true, nil
	case x.over:
		return nil, false, auth.ErrMalformed
	}
	ctx, cancel := context.WithDeadlineCause(ctx, x.deadline, errExchangeTime)
	defer cancel()
	x.unfinished.Store(nil)
	a, err := x.step(ctx, response)
	if err != nil {
		x.over = true
		x.release()
		if errors.Is(err, auth.ErrMechanism) || errors.Is(err, auth.ErrMalformed) || errors.Is(err, auth.ErrPending) {
			return nil, false, err // these do not concern a user
		}
		return nil, false, auth.WithLogin(err, x.observed.login)
	}
	if a.verb == verbCont {
		if strings.HasPrefix(x.mech, "SCRAM-") && x.observed.messages == 1 {
			x.unfinished.Store(&x.observed.login)
		}
		return a.data, false, nil
	}
	x.over = true
	if len(a.data) == 0 {
		return nil, true, nil
	}
	// RFC 4954, section 4: 235 has no place for the mechanism's last message. It is sent
	// as a challenge, to which the client sends an empty response.
	x.last = true
	return a.data, false, nil
}

// step forwards the client's message when the throttle admits it. An answer without an
// error is a challenge, or an OK after which the identity is set.
func (x *exchange) step(ctx context.Context, response []byte) (answer, error) {
	if err := x.observed.add(response); err != nil {
		return answer{}, err
	}
	var a answer
	ask := func(ctx context.Context, p *auth.Peer) (id auth.Identity, err error) {
		defer x.asking()()
		a, id, err = x.ask(ctx, p, response)
		return id, err
	}
	var err error
	if response == nil { // a missing initial response contains no guess
		x.id, err = ask(ctx, x.peer)
	} else {
		x.id, err = auth.Question{
			Throttle: x.proxy.Throttle, Peer: x.peer, Login: x.observed.login, Secret: x.observed.password, Ask: ask,
		}.Verify(ctx)
	}
	switch {
	case err == nil, errors.Is(err, auth.ErrContinue):
		return a, nil
	case errors.Is(err, auth.ErrMechanism), errors.Is(err, auth.ErrPending), is[*auth.Failure](err):
	case !time.Now().Before(x.deadline) && !errors.Is(err, errExchangeTime):
		err = unavailable(fmt.Errorf("%w: %w", errExchangeTime, err))
	case !is[*auth.Unavailable](err):
		err = unavailable(err)
	}
	return answer{}, err // not a, to which a question that runs on may write
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// ask forwards a message, within the bounds on the calls of Dovecot, and returns the identity
// of an OK. A challenge is auth.ErrContinue.
func (x *exchange) ask(ctx context.Context, p *auth.Peer, response []byte) (a answer, id auth.Identity, err error) {
	err = x.proxy.Calls.Do(ctx, p, x.observed.login, func(ctx context.Context) error {
		a, err = x.send(ctx, response)
		switch {
		case errors.Is(err, auth.ErrMechanism) || errors.Is(err, errTooLong):
			return err
		case err != nil:
			return unavailable(err)
		case a.verb == verbCont:
			return auth.ErrContinue
		}
		id, err = a.result()
		id.Mechanism = x.mech
		return err
	})
	return a, id, err
}

// send begins the exchange at Dovecot, or continues it.
func (x *exchange) send(ctx context.Context, response []byte) (answer, error) {
	x.mu.Lock()
	r := x.request
	x.mu.Unlock()
	if r != nil {
		return x.answer(ctx, r, newLine("CONT", number(r.id), base64.StdEncoding.EncodeToString(response)).end())
	}
	r, err := x.proxy.link.open(ctx, x.mech)
	if err != nil {
		return answer{}, err
	}
	x.mu.Lock()
	released := x.released
	if !released {
		x.request = r // for release to cancel
	}
	x.mu.Unlock()
	if released {
		r.cancel()
		return answer{}, errOver
	}
	return x.answer(ctx, r, authLine(r.id, x.mech, x.peer, response))
}

// answer sends a line and returns the answer.
func (x *exchange) answer(ctx context.Context, r *request, line []byte) (answer, error) {
	answered := auth.Asking(ctx)
	a, err := r.ask(ctx, line)
	if err == nil && a.verb != verbCont { // a challenge shows only that Dovecot runs
		answered()
	}
	return a, err
}

// asking keeps the request from being cancelled until the function that it returns is called.
func (x *exchange) asking() (over func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.running = true
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.running = false
		if x.released {
			x.cancel()
		}
	}
}

// release cancels the request at Dovecot, unless Dovecot has ended it. During a step it does
// so at the end of the step.
func (x *exchange) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.released = true
	if !x.running {
		x.cancel()
	}
}

// cancel cancels the request. The caller holds the lock.
func (x *exchange) cancel() {
	if x.request != nil {
		x.request.cancel()
	}
}
