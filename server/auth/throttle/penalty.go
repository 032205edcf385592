package throttle

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"postern/internal/lru"
)

const (
	penaltyKept      = time.Hour // after the last new wrong password
	penaltyAddresses = 1 << 16   // remembered at once; at the worst 50 MiB
	wrongKept        = 10        // wrong passwords remembered for each address
)

// penaltyDelays are the times between two verifications from one address, by the number of
// failures. The values are those of Dovecot.
var penaltyDelays = [...]time.Duration{0, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second}

// penalties are the failures of client addresses, with the queues of their attempts. From an
// address without failures, as many attempts at a time are verified as there are slots; from
// an address with failures one at a time. To displace one penalty, an attacker needs a
// failed login, with its TLS handshake and password hash, from each of 65,536 addresses.
type penalties struct {
	active map[netip.Prefix]*penalty        // with attempts in the queue: never displaced
	idle   *lru.Map[netip.Prefix, *penalty] // without
}

func newPenalties() penalties {
	return penalties{make(map[netip.Prefix]*penalty), lru.New[netip.Prefix, *penalty](penaltyAddresses)}
}

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

// activate returns the penalty of an address, without failures that have expired. The caller
// passes it to deactivate afterwards.
func (all penalties) activate(from netip.Prefix, now time.Time) *penalty {
	p, ok := all.active[from]
	if !ok {
		if p, ok = all.idle.Get(from); !ok {
			p = new(penalty)
		}
		all.idle.Remove(from)
		all.active[from] = p
	}
	if now.Sub(p.increased) >= penaltyKept {
		p.level = 0
	}
	p.wrong = slices.DeleteFunc(p.wrong, func(w wrongPassword) bool { return now.Sub(w.seen) >= penaltyKept })
	return p
}

// deactivate moves a penalty without logins in its queue to the idle ones, or forgets it
// if it has no effect any more.
func (all penalties) deactivate(from netip.Prefix, p *penalty, now time.Time) {
	if p.queued > 0 {
		return
	}
	delete(all.active, from)
	if p.level > 0 || len(p.wrong) > 0 || p.notBefore.After(now) {
		all.idle.Put(from, p)
	}
}

// precheck refuses an attempt that the queue of its address would refuse, before it waits
// for anything else.
func (a *Attempt) precheck(context.Context) error {
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	p := t.penalties.activate(a.from, now)
	defer t.penalties.deactivate(a.from, p, now)
	return p.admits(now, t.config.MaxWait)
}

// awaitAddress waits in the queue of the address, and for the end of its delay.
func (a *Attempt) awaitAddress(ctx context.Context) error {
	maxWait, err := a.enqueue()
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, maxWait, ErrPenalty)
	defer cancel()
	select {
	case <-a.turn:
	case <-waiting.Done():
		return late(ctx, ErrPenalty, context.Cause(waiting))
	}
	a.throttle.mu.Lock()
	delay := time.Until(a.penalty.notBefore)
	a.throttle.mu.Unlock()
	if err := sleep(waiting, delay); err != nil {
		return late(ctx, ErrPenalty, err)
	}
	return nil
}

// enqueue adds the attempt to the queue of its address, and returns how long it may wait
// there.
func (a *Attempt) enqueue() (maxWait time.Duration, err error) {
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	p := t.penalties.activate(a.from, now)
	if err := p.admits(now, t.config.MaxWait); err != nil {
		t.penalties.deactivate(a.from, p, now)
		return 0, err
	}
	a.penalty, a.turn = p, make(chan struct{})
	p.queued++
	p.waiting = append(p.waiting, a.turn)
	p.start(t.slots)
	return t.config.MaxWait, nil
}

// leaveAddress removes the attempt from the queue of its address.
func (t *Throttle) leaveAddress(a *Attempt, now time.Time) {
	p := a.penalty
	p.queued--
	if i := slices.Index(p.waiting, a.turn); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	} else {
		p.running--
		p.start(t.slots)
	}
	t.penalties.deactivate(a.from, p, now)
}

// admits returns ErrPenalty if one more attempt would wait for longer than maxWait.
func (p *penalty) admits(now time.Time, maxWait time.Duration) error {
	if max(p.notBefore.Sub(now), 0)+time.Duration(p.queued)*penaltyDelays[p.level] > maxWait {
		return ErrPenalty
	}
	return nil
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

// increase increases the level by one, but not above most.
func (p *penalty) increase(most int, now time.Time) {
	if p.level < most {
		p.level++
	} else if most < len(penaltyDelays)-1 {
		return // a result that may not keep a higher penalty alive
	}
	p.increased = now
}

// delay starts the delay of the address again, after an attempt without success.
func (p *penalty) delay(now time.Time) { p.notBefore = now.Add(penaltyDelays[p.level]) }

// repeated reports whether the same wrong password has been seen within the last hour,
// and remembers it: a phone that still has the old password is not an attacker. Being
// spared the penalty is a privilege, so the login is compared exactly.
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
