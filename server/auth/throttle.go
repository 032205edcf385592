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
)

// A Throttle slows down those who guess passwords, and nobody else.
//
// Failed logins count against the client's address, for IPv6 against its /64.
// From an address without any, as many logins at a time are verified as there
// are processors; from one with failures it is one at a time, 2 seconds
// after the last failure, then 4, 8 and 15. The delay is served before the next
// verification and not after the failed one: who hangs up early, or opens many
// connections, meets it just the same. While waiting, a login holds nothing but
// its own goroutine. A login whose turn would come too late is told to come
// back later, with [ErrPenalty].
//
// A success does not lift the penalty of the address, or an attacker with an
// account of his own could lift his. It lifts the penalty of its pair: a login
// that has succeeded from an address within 30 days is verified there without
// delay, and its failures are not held against its neighbours. Ten different
// wrong passwords end that privilege. The same wrong password again makes no
// penalty grow.
//
// Memory is bounded: 65,536 addresses and 32,768 logins, at most 8 of one user,
// with 16 addresses each. The least recently touched give way. To make one penalty
// be forgotten takes as many failed logins, each with its TLS handshake and its
// password hash, from as many addresses; to make a known pair be forgotten takes
// thousands of accounts.
//
// Everything lives in this process: after a restart nobody is known and nothing
// is held against anybody. So keep one Throttle for the life of the process, and
// [Throttle.Configure] it when the configuration is read again. Its methods
// may be called by many sessions at once.
type Throttle struct {
	key    []byte // of the memory of wrong passwords
	places int    // logins of one address without failures that are verified at once

	mu      sync.Mutex
	maxWait time.Duration
	exempt  []Network
	active  map[netip.Prefix]*penalty    // somebody is in line: not to be forgotten
	idle    *lru[netip.Prefix, *penalty] // nobody is in line
	known   knownPairs
}

// NewThrottle returns a Throttle that holds nothing against anybody.
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

// Configure applies the settings for penalties of cfg to the logins from now
// on. What is held against whom stays.
func (t *Throttle) Configure(cfg Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.maxWait, t.exempt = cfg.PenaltyWait, slices.Clone(cfg.PenaltyExempt)
}

// Guard returns a verifier that passes each login on to v when its turn has
// come, with Peer.Known set.
func (t *Throttle) Guard(v PasswordVerifier) PasswordVerifier {
	return guarded{t, v}
}

type guarded struct {
	throttle *Throttle
	verifier PasswordVerifier
}

// VerifyPassword implements PasswordVerifier.
func (g guarded) VerifyPassword(ctx context.Context, p *Peer, login, password string) (id Identity, err error) {
	a, err := g.throttle.Enter(ctx, p, login)
	if err != nil {
		return Identity{}, err
	}
	// A verifier that panics has said neither yes nor no.
	outcome := Outcome{Err: context.Canceled}
	defer func() { a.Leave(outcome) }()
	id, err = g.verifier.VerifyPassword(ctx, a.Peer(), login, password)
	outcome = Outcome{Err: err, User: id.User, Secret: password}
	return id, err
}

// An Attempt is a login whose turn has come. It must be left.
type Attempt struct {
	throttle *Throttle
	from     netip.Prefix
	login    string
	peer     Peer
	exempt   bool
	penalty  *penalty      // whose line it is in; nil for one that is spared
	turn     chan struct{} // closed when it has its turn
}

// An Outcome is how an attempt ended. No Err is a success; a *Failure of the
// kinds NoSuchUser, Unknowable and BadPassword is a wrong guess, and so is an
// *Unavailable that such a BadPassword comes with; anything else says nothing of
// the client.
type Outcome struct {
	Err error
	// User is the canonical name of one who has succeeded. However many logins a
	// store takes for him, he gets room for a few.
	User string
	// Secret is the password that was tried, so that its repetition is
	// noticed. It is not kept. Mechanisms that see none leave it empty, and
	// each of their failures is a new one.
	Secret string
}

// Enter waits until the login may be verified. It returns [ErrPenalty] if that
// would take too long, and the cause of ctx if that ends first.
func (t *Throttle) Enter(ctx context.Context, p *Peer, login string) (*Attempt, error) {
	a := &Attempt{throttle: t, from: network(p.Remote.Addr()), login: login, peer: *p}
	wait, err := t.join(a)
	if err != nil {
		return nil, err
	}
	if a.penalty == nil {
		return a, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, ErrPenalty)
	defer cancel()
	err = await(ctx, a.turn)
	if err == nil {
		err = pause(ctx, t.untilNext(a.penalty))
	}
	if err != nil {
		t.part(a)
		return nil, err
	}
	return a, nil
}

// join puts the attempt in the line of its address, unless it is spared, and
// returns how long it may wait there.
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
	held.inLine++
	a.penalty, a.turn = held, held.queue(t.places)
	return t.maxWait, nil
}

// part takes a login out of the line of its address.
func (t *Throttle) part(a *Attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.penalty.quit(a.turn, t.places)
	t.put(a.from, a.penalty, time.Now())
}

func (t *Throttle) untilNext(held *penalty) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Until(held.next)
}

// take returns what is held against an address, for put to take back.
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

// put stores what take returned where it belongs.
func (t *Throttle) put(from netip.Prefix, held *penalty, now time.Time) {
	if held.inLine > 0 {
		return
	}
	delete(t.active, from)
	if !held.clean(now) {
		t.idle.put(from, held)
	}
}

// Peer returns the peer as it was given to Enter, with Known set.
func (a *Attempt) Peer() *Peer { return &a.peer }

// Leave ends the attempt and lets the next one of its address have its turn. It
// is called exactly once.
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
// could not tell. A store that only does not know the user has said nothing of
// the client, who may be at home in the other one.
func isRefused(err error) bool {
	u, ok := errors.AsType[*Unavailable](err)
	return ok && u.Refused != nil && u.Refused.Kind == BadPassword
}

// guessed holds a wrong guess against whom it belongs: the pair if the login was
// spared, the address otherwise.
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

// network is what counts as one client: an IPv4 address, and of IPv6 the /64
// that a subscriber gets at least.
func network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // fails only for the zero Addr, which is one client too
	return p
}
