package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"postern/internal/netprefix"
)

// A Throttle slows down clients that guess passwords, and no others.
//
// Failed logins count against the client's address, for IPv6 against its /64.
// From an address without any, as many logins at a time are verified as there
// are processors; from one with failures it is one at a time, 2 seconds
// after the last failure, then 4, 8 and 15. The delay comes before the next
// verification and not after the failed one, so a client cannot avoid it by closing
// the connection early or by opening many. A login that waits holds nothing but
// its goroutine. A login that would have to wait too long is refused with [ErrPenalty].
//
// A success does not end the penalty of the address, or an attacker with one account
// could end it. It ends the penalty of its pair: a login that has succeeded from an
// address within 30 days is verified there without delay, and its failures do not
// count against the address. Ten different wrong passwords end that privilege. A
// repeated wrong password does not increase a penalty.
//
// Memory is bounded: 65,536 addresses and 32,768 logins, at most 8 of one user,
// with 16 addresses each. A new entry replaces the least recently changed one. To
// displace one penalty takes as many failed logins, each with its TLS handshake and its
// password hash, from as many addresses; to displace a known pair takes thousands of
// accounts.
//
// The state is that of the process: a restart discards all penalties and known pairs.
// So keep one Throttle for the life of the process, and call [Throttle.Configure] when
// the configuration is read again. Its methods may be called by many sessions at once.
type Throttle struct {
	key    []byte // of the HMACs of wrong passwords
	places int    // logins of one address without failures that are verified at once

	mu      sync.Mutex
	maxWait time.Duration
	exempt  []Network
	active  map[netip.Prefix]*penalty    // with logins in the queue: never displaced
	idle    *lru[netip.Prefix, *penalty] // without
	known   knownPairs
}

// NewThrottle returns a Throttle without penalties and known pairs.
func NewThrottle(cfg Config) *Throttle {
	t := &Throttle{
		key:    make([]byte, 32),
		places: runtime.GOMAXPROCS(0),
		active: make(map[netip.Prefix]*penalty),
		idle:   newLRU[netip.Prefix, *penalty](penaltyAddresses),
		known:  newKnownPairs(),
	}
	rand.Read(t.key) // never fails: crypto/rand ends the process instead
	t.Configure(cfg)
	return t
}

// Configure applies the settings for penalties of cfg to all further logins. Existing
// penalties are kept.
func (t *Throttle) Configure(cfg Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.maxWait, t.exempt = cfg.PenaltyWait, slices.Clone(cfg.PenaltyExempt)
}

// Guard returns a verifier that passes each login on to v after its delay, with
// Peer.Known set.
func (t *Throttle) Guard(v PasswordVerifier) PasswordVerifier {
	return throttled{t, v}
}

type throttled struct {
	throttle *Throttle
	verifier PasswordVerifier
}

// VerifyPassword implements PasswordVerifier.
func (g throttled) VerifyPassword(ctx context.Context, p *Peer, login, password string) (id Identity, err error) {
	a, err := g.throttle.Enter(ctx, p, login)
	if err != nil {
		return Identity{}, err
	}
	// A verifier that panics has neither accepted nor refused the password.
	outcome := Outcome{Err: context.Canceled}
	defer func() { a.Leave(outcome) }()
	id, err = g.verifier.VerifyPassword(ctx, &a.peer, login, password)
	outcome = Outcome{Err: err, User: id.User, Secret: password}
	return id, err
}

// An Attempt is a login that may be verified now. Leave must be called at its end.
type Attempt struct {
	throttle *Throttle
	from     netip.Prefix
	login    string
	peer     Peer
	exempt   bool
	penalty  *penalty      // of its address; nil for a login without delay
	turn     chan struct{} // from penalty.queue
}

// An Outcome is how an attempt ended. No Err is a success; a *Failure of the
// kinds NoSuchUser, Unknowable and BadPassword is a wrong guess, and so is an
// *Unavailable that such a BadPassword comes with; any other error does not count
// against the client.
type Outcome struct {
	Err error
	// User is the canonical name after a success. A few logins of each user are
	// remembered, however many a store accepts.
	User string
	// Secret is the password that was tried, by which a repetition is recognised. It
	// is not kept. Mechanisms that do not get a password leave it empty, and each of
	// their failures counts as a new one.
	Secret string
}

// Enter waits until the login may be verified. It returns [ErrPenalty] if that
// would take too long, and the cause of ctx if that ends first.
func (t *Throttle) Enter(ctx context.Context, p *Peer, login string) (*Attempt, error) {
	a := &Attempt{throttle: t, from: netprefix.Client(p.Remote.Addr()), login: login, peer: *p}
	wait, err := t.join(a)
	if err != nil {
		return nil, err
	}
	if a.penalty == nil {
		return a, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, ErrPenalty)
	defer cancel()
	select {
	case <-a.turn:
		err = t.pause(ctx, a.penalty)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		t.part(a)
		return nil, err
	}
	return a, nil
}

// join adds the attempt to the queue of its address, unless it is verified without
// delay, and returns how long it may wait there.
func (t *Throttle) join(a *Attempt) (time.Duration, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	a.peer.Known = t.known.has(a.login, a.from, now)
	a.exempt = slices.ContainsFunc(t.exempt, func(n Network) bool { return n.Contains(a.peer.Remote.Addr()) })
	if a.peer.Known || a.exempt {
		return 0, nil
	}
	held := t.take(a.from, now)
	if held.place(now) > t.maxWait {
		t.put(a.from, held, now)
		return 0, ErrPenalty
	}
	a.penalty, a.turn = held, held.queue(t.places)
	return t.maxWait, nil
}

// part removes a login from the queue of its address.
func (t *Throttle) part(a *Attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.penalty.quit(a.turn, t.places)
	t.put(a.from, a.penalty, time.Now())
}

// pause waits until the delay of the address is over, or returns the cause of ctx if
// that ends first.
func (t *Throttle) pause(ctx context.Context, held *penalty) error {
	t.mu.Lock()
	d := time.Until(held.next)
	t.mu.Unlock()
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take returns the penalty of an address. The caller passes it to put afterwards.
func (t *Throttle) take(from netip.Prefix, now time.Time) *penalty {
	held, ok := t.active[from]
	if !ok {
		if held, ok = t.idle.get(from); !ok {
			held = new(penalty)
		}
		t.idle.remove(from)
		t.active[from] = held
	}
	held.age(now)
	return held
}

// put stores a penalty again, if there is anything to remember in it.
func (t *Throttle) put(from netip.Prefix, held *penalty, now time.Time) {
	if held.inLine > 0 {
		return
	}
	delete(t.active, from)
	if held.level > 0 || len(held.wrong) > 0 || held.next.After(now) {
		t.idle.put(from, held)
	}
}

// Leave ends the attempt, so that the next login of its address can be verified. Each
// successful Enter must be paired with one Leave.
func (a *Attempt) Leave(o Outcome) {
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	switch {
	case o.Err == nil:
		t.known.succeeded(cmp.Or(o.User, a.login), a.login, a.from, now)
	case (isGuess(o.Err) || isRefused(o.Err)) && !a.exempt:
		t.guessed(a, o.Secret, now)
	}
	if a.penalty == nil {
		return
	}
	if o.Err != nil {
		a.penalty.next = now.Add(penaltyDelay(a.penalty.level))
	}
	a.penalty.quit(a.turn, t.places)
	t.put(a.from, a.penalty, now)
}

// isRefused reports whether a store has found the password wrong while another one
// did not answer. NoSuchUser does not count: the user may be one of the other store.
func isRefused(err error) bool {
	u, ok := errors.AsType[*Unavailable](err)
	return ok && u.Refused != nil && u.Refused.Kind == BadPassword
}

// guessed counts a wrong guess: against the pair if it is a known one, otherwise against
// the address.
func (t *Throttle) guessed(a *Attempt, secret string, now time.Time) {
	held := t.take(a.from, now)
	defer t.put(a.from, held, now)
	if secret != "" && held.repeated(passwordMAC(t.key, a.login, secret), now) {
		return
	}
	if a.peer.Known {
		t.known.mistaken(a.login, a.from)
		return
	}
	held.grow(now)
}
