// Package throttle delays logins from clients that guess passwords.
//
// An attempt to log in passes up to three delays before the password is verified, so a
// client cannot avoid them by closing the connection early or by opening many. A waiting
// attempt occupies only its goroutine.
//
//	logins     wrong guesses for one login, from all addresses together, are examined at a
//	           bounded rate; above it, attempts wait, and networks without failures go first
//	networks   after failures in an IPv6 /56 or /48, an attempt from it waits up to 4 seconds
//	penalty    failures count against the client's address: the next attempts are verified
//	           one at a time, 2, 4, 8, then 15 seconds after the last one
//
// Only the delay of the address ends in a refusal, [ErrPenalty], if it would be too long.
//
// A success makes the login and the address a known pair (file pairs): for 30 days, this
// login is verified from this address without delay. Its wrong passwords count against the
// pair, ten of which end the privilege for a time. The wrong password is refused only after
// the delay that any other login would have had ([Attempt.AwaitAnswer]).
//
// Privileges compare logins exactly, since some stores distinguish "bob" and "Bob". The
// count for each login compares them as widely as possible (file fold), since other stores
// do not distinguish them. A repeated wrong password from an address is no new guess.
//
// Memory is bounded; each file states how. An entry with an attempt in progress is never
// displaced.
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
	"sync"
	"time"

	"postern/internal/netprefix"
	"postern/server/auth/hash"
)

var (
	// ErrPenalty means that so many logins from the client's address have failed that this
	// one would have to wait too long. It is a temporary error (454 4.7.0).
	ErrPenalty = errors.New("auth: too many failed logins from this address")

	// ErrLoginBusy means that the time for the reply ended while the attempt waited, since
	// so many wrong passwords have been tried for its login, from any address. It is a
	// temporary error (454 4.7.0), and does not count against the client.
	ErrLoginBusy = errors.New("auth: too many wrong passwords for this login from unknown networks")
)

// Config has the settings of the administrator.
type Config struct {
	MaxWait time.Duration  // how long a login waits for its address; beyond that it gets ErrPenalty
	Exempt  []netip.Prefix // failed logins from these networks delay no login
}

// A Throttle holds the penalties and the known pairs of the process. A reload must not
// discard them: keep one Throttle for the life of the process, and call
// [Throttle.Configure] when the configuration is read again. [Throttle.Load] and
// [Throttle.Save] carry the known pairs and the counts of logins over a restart. Its
// methods may be called by many sessions at once.
type Throttle struct {
	*state
	users   string                    // see For
	account func(login string) string // see Accounts; nil: the login itself
}

type state struct {
	key   hash.Key // of the MACs of wrong passwords
	slots int      // logins verified at once for an address without failures

	mu        sync.Mutex
	config    Config
	ids       hash.Key // of the MACs of logins and addresses; see Load
	changed   bool     // since the last Save
	penalties penalties
	networks  networks
	logins    *loginCounts
	known     knownPairs
}

// New returns a Throttle without penalties and known pairs.
func New(cfg Config) *Throttle {
	return &Throttle{state: &state{
		key:       hash.NewKey(),
		ids:       hash.NewKey(),
		slots:     runtime.GOMAXPROCS(0),
		config:    cfg,
		penalties: newPenalties(),
		networks:  newNetworks(),
		logins:    newLoginCounts(),
		known:     newKnownPairs(),
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
// share them. Known pairs and counts of logins are separate: a login of alice in the other
// stores must not make her address known for the alice of t, whose password could then be
// guessed without delay.
func (t *Throttle) For(users string) *Throttle { return &Throttle{t.state, users, t.account} }

// Accounts returns a Throttle that counts the guesses for each account(login), which is the
// same for all logins that may be one account: alice at any domain for a store that uses
// only the local part. Without it, an attacker could guess once for each domain.
func (t *Throttle) Accounts(account func(login string) string) *Throttle {
	return &Throttle{t.state, t.users, account}
}

// name returns a login or a user as it is remembered.
func (t *Throttle) name(of string) string {
	if t.users == "" || of == "" {
		return of
	}
	return t.users + "\x00" + of
}

// An id identifies a login or a network by a MAC: its size does not depend on what a client
// sends, and in the file of known pairs it does not show which accounts exist.
type id [16]byte

// id returns the id of a name, or of a name at an address. kind separates the uses.
func (t *Throttle) id(kind, name, at string) id { return t.ids.MAC(kind+"\x00"+name, at) }

// An Attempt is a login that may be verified now. Done or Yield must be called exactly
// once.
type Attempt struct {
	// Known is set if the login has succeeded from this address within 30 days. Stores with
	// a queue serve such clients first.
	Known bool

	throttle *Throttle
	from     netip.Prefix // the address or /64 that the client counts as
	network  netip.Prefix // the /24 or /48 of the address
	login    string
	ids      pairIDs // of login; zero if that is not known
	exempt   bool
	nearby   bool // not Known, but the login has succeeded from the network
	refused  bool // Done has reported a wrong guess

	// What the attempt has reserved and not used up; nil for nothing.
	mistake *mistake      // of a known pair
	guess   *loginTurn    // of the login
	penalty *penalty      // of from: a place in the queue of the address
	turn    chan struct{} // in penalty.waiting; closed when the attempt may be verified
}

// Acquire waits until the login from addr may be verified. It returns [ErrPenalty] if the
// delay of the address is longer than Config.MaxWait, and the cause of ctx if ctx ends
// before. After the deadline of ctx, the error wraps both, or [ErrLoginBusy] and the cause.
func (t *Throttle) Acquire(ctx context.Context, addr netip.Addr, login string) (*Attempt, error) {
	a := &Attempt{throttle: t, from: netprefix.Client(addr), network: netprefix.Network(addr), login: login}
	if t.privileged(a, addr) {
		return a, nil
	}
	if err := a.admit(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// privileged reports whether the attempt is verified without delay. A known pair reserves
// one of its mistakes, so that no number of attempts at once can make more. If none is
// left, the attempt is an ordinary one of its address.
func (t *Throttle) privileged(a *Attempt, addr netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	plain := addr.Unmap().WithZone("")
	a.exempt = slices.ContainsFunc(t.config.Exempt, func(n netip.Prefix) bool { return n.Contains(plain) })
	if a.login == "" {
		return a.exempt
	}
	a.ids = t.pairIDs(a)
	a.mistake, a.Known = t.known.reserve(a.ids, now)
	a.nearby = a.mistake != nil && !a.Known
	return a.Known || a.exempt
}

// admit passes the delays. After an error, the attempt has nothing reserved.
func (a *Attempt) admit(ctx context.Context) error {
	for _, delay := range []func(context.Context) error{a.precheck, a.awaitLogin, a.awaitNetwork, a.awaitAddress} {
		if err := delay(ctx); err != nil {
			a.Yield()
			return err
		}
	}
	return nil
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
		t.countSuccess(a, o.User, now)
	case o.Result != Undecided && !a.exempt:
		a.refused = o.Result == WrongGuess
		t.countGuess(a, o, now)
	}
	if a.penalty != nil && o.Result != Success {
		a.penalty.delay(now)
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
// attempt was a wrong guess that has been spared a delay, since the login is known at the
// address or in its network, it waits for as long as any other login would have waited: the
// time of the answer does not reveal which logins are known. It returns [ErrPenalty] if that
// login would have been refused, and otherwise what [Throttle.Acquire] returns if ctx ends
// before. For every other attempt it returns nil at once.
func (a *Attempt) AwaitAnswer(ctx context.Context) error {
	if !a.refused || !a.Known && !a.nearby {
		return nil
	}
	other := &Attempt{throttle: a.throttle, from: a.from, network: a.network, login: a.login}
	delays := other.admit
	if a.nearby { // it has had the other delays
		delays = other.awaitLogin
	}
	if err := delays(ctx); err != nil {
		other.Yield()
		return err
	}
	other.Done(Outcome{}) // which starts the delay of the address again, as that of any other login
	return nil
}

// leave gives back what the attempt has reserved and not used up.
func (t *Throttle) leave(a *Attempt, now time.Time) {
	if a.mistake != nil {
		a.mistake.giveBack(now)
		a.mistake = nil
	}
	if a.guess != nil {
		t.leaveLogin(a.guess, now)
		a.guess = nil
	}
	if a.penalty != nil {
		t.leaveAddress(a, now)
		a.penalty = nil
	}
}

// countSuccess makes the login and the address a known pair. It does not end the penalties
// of the address and of the login, otherwise an attacker with one account could end them.
func (t *Throttle) countSuccess(a *Attempt, user string, now time.Time) {
	identity := t.id("user", t.name(cmp.Or(user, a.login)), "")
	t.networks.forgive(identity, a.from, now)
	if a.login != "" {
		t.known.succeeded(identity, a.ids, now)
	}
	t.changed = true
}

// countGuess counts a guess that was not the right one: against the pair if it is still a
// known one, otherwise against the address, its networks and the login. A question without
// a verdict costs the address one guess, never more, and the login none: the client has
// learned nothing.
func (t *Throttle) countGuess(a *Attempt, o Outcome, now time.Time) {
	p := t.penalties.activate(a.from, now)
	defer t.penalties.deactivate(a.from, p, now)
	if o.Secret != "" && p.repeated(t.key.MAC(t.name(a.login), o.Secret), now) {
		return
	}
	t.changed = true
	held := a.mistake != nil && t.known.holds(a.ids, a.mistake)
	if held {
		a.mistake = nil // it stays used up
	}
	switch {
	case held && a.Known:
		return
	case o.Result == Unanswered:
		p.increase(1, now)
	default:
		p.increase(len(penaltyDelays)-1, now)
		t.networks.count(a.from, now)
		if !held && a.login != "" {
			t.useGuess(a, now)
		}
	}
	p.delay(now)
}

// sleep waits for d, or for the end of ctx, and returns its cause.
func sleep(ctx context.Context, d time.Duration) error {
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

// late adds to the cause of ctx what the attempt has waited for until the deadline.
func late(ctx context.Context, reason, cause error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w, and the time for the reply is over: %w", reason, cause)
	}
	return cause
}
