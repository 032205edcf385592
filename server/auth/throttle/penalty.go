package throttle

import (
	"slices"
	"time"
)

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

// enqueue adds a login. turn is closed when it may be verified.
func (p *penalty) enqueue(slots int) (turn chan struct{}) {
	turn = make(chan struct{})
	p.queued++
	p.waiting = append(p.waiting, turn)
	p.start(slots)
	return turn
}

// start starts the logins that may be verified now: as many at once as there are slots,
// or one at a time from an address with failures. That bounds the gain of an attacker to
// one burst of so many guesses, since the first of them to fail delays the other logins
// in the queue.
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

// leave removes a login that is being verified or waits for that.
func (p *penalty) leave(turn chan struct{}, slots int) {
	p.queued--
	if i := slices.Index(p.waiting, turn); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return
	}
	p.running--
	p.start(slots)
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
