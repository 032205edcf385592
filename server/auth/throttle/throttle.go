// Package throttle delays logins from clients that guess passwords.
//
// Failed logins count against the client's address, for IPv6 against its /64. From an
// address without failures, as many logins at a time are verified as there are processors;
// from an address with failures one at a time, 2 seconds after the last failure, then 4, 8
// and 15. The delay comes before the next verification and not after the failed one, so a
// client cannot avoid it by closing the connection early or by opening many. A waiting
// login occupies only its goroutine. A login that would have to wait too long is refused
// with [ErrPenalty].
//
// A success does not end the penalty of the address, otherwise an attacker with one account
// could end it. But it makes the login and the address a known pair: for 30 days, the login
// is verified from that address without delay, and its failures do not count against the
// address. Ten different wrong passwords end that privilege. A repeated wrong password does
// not increase a penalty.
//
// Memory is bounded: 65,536 addresses and 32,768 logins, at most 8 of one user, with 16
// addresses each. A new entry replaces the least recently changed one. To displace one
// penalty, an attacker needs a failed login, with its TLS handshake and password hash, from
// each of 65,536 addresses; to displace a known pair, thousands of accounts.
//
// The package knows neither stores nor mechanisms: package auth and the Dovecot proxy
// call [Throttle.Acquire] before a password is verified, and [Attempt.Done] after it.
package throttle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/internal/lru"
	"postern/internal/netprefix"
	"postern/server/auth/hash"
)

// ErrPenalty means that so many logins from the client's address have failed that this
// one would have to wait too long. It is a temporary error (454 4.7.0).
var ErrPenalty = errors.New("auth: too many failed logins from this address")

// Config has the settings of the administrator.
type Config struct {
	MaxWait time.Duration  // how long a login waits; beyond that it gets ErrPenalty
	Exempt  []netip.Prefix // failed logins from these networks delay no login
}

// A Throttle holds the penalties and the known pairs of the process. A restart discards
// them, a reload must not: keep one Throttle for the life of the process, and call
// [Throttle.Configure] when the configuration is read again. Its methods may be called
// by many sessions at once.
type Throttle struct {
	*state
	users string // see For
}

type state struct {
	key   hash.Key // of the MACs of wrong passwords
	slots int      // logins verified at once for an address without failures

	mu     sync.Mutex
	config Config
	active map[netip.Prefix]*penalty        // with logins in the queue: never displaced
	idle   *lru.Map[netip.Prefix, *penalty] // without
	known  knownPairs
}

// New returns a Throttle without penalties and known pairs.
func New(cfg Config) *Throttle {
	return &Throttle{state: &state{
		key:    hash.NewKey(),
		slots:  runtime.GOMAXPROCS(0),
		config: cfg,
		active: make(map[netip.Prefix]*penalty),
		idle:   lru.New[netip.Prefix, *penalty](penaltyAddresses),
		known:  newKnownPairs(),
	}}
}

// Configure applies cfg to all further logins. Existing penalties are kept.
func (t *Throttle) Configure(cfg Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.config = cfg
}

// For returns a Throttle for the users of other stores. users names these stores, for
// example by the listener that has them. Penalties belong to addresses, so both Throttles
// share them. Known pairs are separate: a login of alice in the other stores must not make
// her address known for the alice of t, whose password could then be guessed without delay.
func (t *Throttle) For(users string) *Throttle { return &Throttle{t.state, users} }

// name returns a login or a user as it is remembered.
func (t *Throttle) name(of string) string {
	if t.users == "" || of == "" {
		return of
	}
	return t.users + "\x00" + of
}

// An Attempt is a login that may be verified now. Done or Yield must be called exactly
// once.
type Attempt struct {
	// Known is set if the login has succeeded from this address within 30 days. Stores with
	// a queue serve such clients first.
	Known bool

	throttle *Throttle
	addr     netip.Addr
	from     netip.Prefix // the address or /64 that addr counts as
	login    string
	exempt   bool
	penalty  *penalty      // of from; nil for a login without delay
	turn     chan struct{} // in penalty.waiting; closed when the attempt may be verified
	refused  bool          // Done has reported a wrong guess
}

// Acquire waits until the login from addr may be verified. It returns [ErrPenalty] if that
// would take longer than Config.MaxWait, and the cause of ctx if ctx ends before. After the
// deadline of ctx, the error wraps both.
func (t *Throttle) Acquire(ctx context.Context, addr netip.Addr, login string) (*Attempt, error) {
	a := &Attempt{throttle: t, addr: addr, from: netprefix.Client(addr), login: t.name(login)}
	if t.privileged(a) {
		return a, nil
	}
	if err := a.await(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// privileged reports whether the attempt is verified without delay.
func (t *Throttle) privileged(a *Attempt) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.Known = t.known.has(a.login, a.from, time.Now())
	plain := a.addr.Unmap().WithZone("")
	a.exempt = slices.ContainsFunc(t.config.Exempt, func(n netip.Prefix) bool { return n.Contains(plain) })
	return a.Known || a.exempt
}

// await waits in the queue of the address. After an error, the attempt has left the queue.
func (a *Attempt) await(ctx context.Context) error {
	maxWait, err := a.throttle.enqueue(a)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, maxWait, ErrPenalty)
	defer cancel()
	if err := a.wait(waiting); err != nil {
		a.Yield()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("%w, and the time for the reply is over: %w", ErrPenalty, err)
		}
		return err
	}
	return nil
}

// enqueue adds the attempt to the queue of its address, and returns how long it may wait
// there.
func (t *Throttle) enqueue(a *Attempt) (maxWait time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	p := t.activate(a.from, now)
	if max(p.notBefore.Sub(now), 0)+time.Duration(p.queued)*penaltyDelays[p.level] > t.config.MaxWait {
		t.deactivate(a.from, p, now)
		return 0, ErrPenalty
	}
	a.penalty, a.turn = p, make(chan struct{})
	p.queued++
	p.waiting = append(p.waiting, a.turn)
	p.start(t.slots)
	return t.config.MaxWait, nil
}

// wait waits until it is the attempt's turn and the delay of its address is over. If ctx
// ends before, it returns the cause.
func (a *Attempt) wait(ctx context.Context) error {
	select {
	case <-a.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	a.throttle.mu.Lock()
	delay := time.Until(a.penalty.notBefore)
	a.throttle.mu.Unlock()
	if delay <= 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A Result is the result of the verification of a password.
type Result uint8

const (
	Undecided  Result = iota // the store is broken, the server shuts down, the account is disabled
	Success                  // the password is right
	WrongGuess               // the login or the password is wrong
	Unanswered               // the client hung up, and the store has given no verdict since, although it answers others
)

// An Outcome is how an attempt ended.
type Outcome struct {
	Result Result

	// User is the identity that the store returned after a success: the name of the store
	// and the canonical name, so that users of two stores are different identities. A few
	// logins of each identity are remembered, however many a store accepts.
	User string

	// Secret is the password of a wrong guess, by which a repetition is recognised. It
	// is not kept. Mechanisms that do not get a password leave it empty, and each of
	// their wrong guesses counts as a new one.
	Secret string
}

// Done ends the attempt, so that the next login of its address can be verified.
func (a *Attempt) Done(o Outcome) {
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	switch {
	case o.Result == Success:
		t.known.succeeded(cmp.Or(t.name(o.User), a.login), a.login, a.from, now)
	case (o.Result == WrongGuess || o.Result == Unanswered) && !a.exempt:
		a.refused = o.Result == WrongGuess
		t.countGuess(a, o, now)
	}
	if a.penalty != nil && o.Result != Success {
		a.penalty.notBefore = now.Add(penaltyDelays[a.penalty.level])
	}
	t.leave(a, now)
}

// Yield ends the attempt without an outcome. A mechanism calls it while it waits for the
// client's next response, so that other logins of the address do not wait for the client.
// It calls [Throttle.Acquire] again after the response.
func (a *Attempt) Yield() {
	a.throttle.mu.Lock()
	defer a.throttle.mu.Unlock()
	a.throttle.leave(a, time.Now())
}

// AwaitAnswer is called after Done, before a refusal is returned to the client. If the
// attempt was a wrong guess of a known pair, which was verified without delay, it waits for
// as long as a login that is not known would have waited, so that the time of the answer
// does not reveal which logins are known at the address. It returns [ErrPenalty] if that
// login would have been refused, and the cause of ctx if ctx ends before. For every other
// attempt it returns nil at once.
func (a *Attempt) AwaitAnswer(ctx context.Context) error {
	if !a.Known || !a.refused {
		return nil
	}
	like := &Attempt{throttle: a.throttle, addr: a.addr, from: a.from, login: a.login}
	if err := like.await(ctx); err != nil {
		return err
	}
	like.Done(Outcome{})
	return nil
}

// leave removes the attempt from the queue of its address, if it is in one.
func (t *Throttle) leave(a *Attempt, now time.Time) {
	p := a.penalty
	if p == nil {
		return
	}
	p.queued--
	if i := slices.Index(p.waiting, a.turn); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	} else {
		p.running--
		p.start(t.slots)
	}
	t.deactivate(a.from, p, now)
}

// countGuess counts a wrong guess: against the pair if it is a known one, otherwise
// against the address.
func (t *Throttle) countGuess(a *Attempt, o Outcome, now time.Time) {
	p := t.activate(a.from, now)
	defer t.deactivate(a.from, p, now)
	switch {
	case o.Secret != "" && p.repeated(t.key.MAC(a.login, o.Secret), now):
	case a.Known:
		t.known.mistaken(a.login, a.from)
	case o.Result == Unanswered && p.level > 0: // one guess, never more
	default:
		p.level, p.increased = min(p.level+1, len(penaltyDelays)-1), now
	}
}

const (
	penaltyKept      = time.Hour // after the last new wrong password
	penaltyAddresses = 1 << 16   // remembered at once; at the worst 50 MiB
	wrongKept        = 10        // wrong passwords remembered for each address
)

// penaltyDelays are the times between two verifications from one address, by the number of
// failures. The values are those of Dovecot.
var penaltyDelays = [...]time.Duration{0, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second}

// penalty is the state of one address: its failed logins, and the queue of its logins.
// The fields are guarded by the throttle's lock.
type penalty struct {
	queued  int             // logins that are being verified or wait for that
	running int             // those that are being verified
	waiting []chan struct{} // the others in order; closed when it is their turn

	level     int       // index into penaltyDelays
	increased time.Time // when level last increased
	notBefore time.Time // of the next verification
	wrong     []wrongPassword
}

// wrongPassword identifies a wrong password without containing it.
type wrongPassword struct {
	mac  [16]byte
	seen time.Time
}

// start starts the logins that may be verified now: as many at once as there are slots, or
// one at a time from an address with failures. So an attacker gains at most one burst of
// that many guesses, because the first failure delays the other logins in the queue.
func (p *penalty) start(slots int) {
	if p.level > 0 {
		slots = 1
	}
	for len(p.waiting) > 0 && p.running < slots {
		p.running++
		close(p.waiting[0])
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// repeated reports whether the same wrong password has been seen within the last hour,
// and remembers it: a phone that still has the old password is not an attacker.
func (p *penalty) repeated(mac [16]byte, now time.Time) bool {
	i := slices.IndexFunc(p.wrong, func(w wrongPassword) bool { return w.mac == mac })
	seen := i >= 0
	if !seen && len(p.wrong) == wrongKept {
		i = 0
	}
	if i >= 0 {
		p.wrong = slices.Delete(p.wrong, i, i+1)
	}
	p.wrong = append(p.wrong, wrongPassword{mac, now})
	return seen
}

// activate returns the penalty of an address, without failures that have expired. The caller
// passes it to deactivate afterwards.
func (t *Throttle) activate(from netip.Prefix, now time.Time) *penalty {
	p, ok := t.active[from]
	if !ok {
		if p, ok = t.idle.Get(from); !ok {
			p = new(penalty)
		}
		t.idle.Remove(from)
		t.active[from] = p
	}
	if now.Sub(p.increased) >= penaltyKept {
		p.level = 0
	}
	p.wrong = slices.DeleteFunc(p.wrong, func(w wrongPassword) bool { return now.Sub(w.seen) >= penaltyKept })
	return p
}

// deactivate moves a penalty without logins in its queue to the idle ones, or forgets it
// if it has no effect any more.
func (t *Throttle) deactivate(from netip.Prefix, p *penalty, now time.Time) {
	if p.queued > 0 {
		return
	}
	delete(t.active, from)
	if p.level > 0 || len(p.wrong) > 0 || p.notBefore.After(now) {
		t.idle.Put(from, p)
	}
}

const (
	knownFor      = 30 * 24 * time.Hour
	knownLogins   = 1 << 15 // logins remembered; at the worst 50 MiB
	knownPerLogin = 16      // addresses remembered for each
	knownPerUser  = 8       // logins remembered of one user
	knownMistakes = 10      // different wrong passwords that a pair may try
)

// knownPairs remembers which login has succeeded from which address. Logins are
// compared in lower case, since several spellings are one login to most stores.
//
// Only a correct password adds a pair. The addresses of a login are limited, and so are the
// logins of a user, because many logins may be one user: alice at any domain in a store
// that uses only the local part, or any spelling in a store that ignores case or accents.
// So a user with one account cannot displace the pairs of other users.
type knownPairs struct {
	logins *lru.Map[string, []knownPair]
	users  *lru.Map[string, []string] // the logins of each, the oldest first
}

type knownPair struct {
	from     netip.Prefix
	last     time.Time
	mistakes int // different wrong passwords since last
}

func newKnownPairs() knownPairs {
	return knownPairs{lru.New[string, []knownPair](knownLogins), lru.New[string, []string](knownLogins)}
}

func (k knownPairs) has(login string, from netip.Prefix, now time.Time) bool {
	pairs, _ := k.logins.Get(strings.ToLower(login))
	i := indexPair(pairs, from)
	return i >= 0 && now.Sub(pairs[i].last) < knownFor
}

// succeeded remembers the pair, and the login as one of the user's. Each replaces the
// oldest one if there is no room.
func (k knownPairs) succeeded(user, login string, from netip.Prefix, now time.Time) {
	login = strings.ToLower(login)
	logins, _ := k.users.Get(user)
	logins = slices.DeleteFunc(logins, func(l string) bool { return l == login })
	if len(logins) == knownPerUser {
		k.logins.Remove(logins[0])
		logins = slices.Delete(logins, 0, 1)
	}
	k.users.Put(user, append(logins, login))

	pairs, _ := k.logins.Get(login)
	if i := indexPair(pairs, from); i >= 0 {
		pairs = slices.Delete(pairs, i, i+1)
	}
	if len(pairs) == knownPerLogin {
		pairs = slices.Delete(pairs, 0, 1)
	}
	k.logins.Put(login, append(pairs, knownPair{from: from, last: now}))
}

// mistaken counts a wrong password. A pair with too many of them is removed, otherwise
// another client at a user's address could guess without any delay.
func (k knownPairs) mistaken(login string, from netip.Prefix) {
	login = strings.ToLower(login)
	pairs, _ := k.logins.Get(login)
	i := indexPair(pairs, from)
	if i < 0 {
		return
	}
	if pairs[i].mistakes++; pairs[i].mistakes >= knownMistakes {
		k.logins.Put(login, slices.Delete(pairs, i, i+1))
	}
}

func indexPair(pairs []knownPair, from netip.Prefix) int {
	return slices.IndexFunc(pairs, func(p knownPair) bool { return p.from == from })
}
