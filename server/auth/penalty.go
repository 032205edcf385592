package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

const (
	penaltyKept      = time.Hour // after the last new wrong password
	penaltyMaxLevel  = 4
	penaltyAddresses = 1 << 16 // remembered at once; at the worst 50 MiB
	wrongKept        = 10      // wrong passwords remembered for each address
)

// penaltyDelay is the time between two verifications from one address. Dovecot
// has taught clients, and people, these values.
func penaltyDelay(level int) time.Duration {
	switch level {
	case 0:
		return 0
	case penaltyMaxLevel:
		return 15 * time.Second
	}
	return time.Second << level // 2, 4, 8
}

// penalty is what is held against one address, and the line of its logins. The
// fields are guarded by the throttle's lock.
type penalty struct {
	inLine  int             // logins that have their turn or wait for it
	running int             // those that have it
	waiting []chan struct{} // the others in order; closed when it is their turn

	level int
	grown time.Time // when level last grew
	next  time.Time // no verification before this
	wrong []wrongPassword
}

// wrongPassword remembers a wrong password without being one.
type wrongPassword struct {
	mac  [16]byte
	seen time.Time
}

// width is how many logins may have their turn at once, of places that there
// are. What an attacker gains is bounded by that: one burst of so many guesses,
// and the first of them to fail closes the rest of the line.
func (a *penalty) width(places int) int {
	if a.level > 0 {
		return 1
	}
	return places
}

// queue gives the login that has come last its turn, or a place in the line.
func (a *penalty) queue(places int) (turn chan struct{}) {
	turn = make(chan struct{})
	a.waiting = append(a.waiting, turn)
	a.callUp(places)
	return turn
}

// callUp gives their turn to those who may have it now.
func (a *penalty) callUp(places int) {
	for len(a.waiting) > 0 && a.running < a.width(places) {
		a.running++
		close(a.waiting[0])
		a.waiting = slices.Delete(a.waiting, 0, 1)
	}
}

// quit takes out of the line a login that has its turn or waits for it.
func (a *penalty) quit(turn chan struct{}, places int) {
	a.inLine--
	if i := slices.Index(a.waiting, turn); i >= 0 {
		a.waiting = slices.Delete(a.waiting, i, i+1)
		return
	}
	a.running--
	a.callUp(places)
}

// age forgets what is older than an hour.
func (a *penalty) age(now time.Time) {
	if now.Sub(a.grown) >= penaltyKept {
		a.level = 0
	}
	a.wrong = slices.DeleteFunc(a.wrong, func(w wrongPassword) bool { return now.Sub(w.seen) >= penaltyKept })
}

// clean reports whether there is nothing to remember.
func (a *penalty) clean(now time.Time) bool {
	return a.level == 0 && len(a.wrong) == 0 && !a.next.After(now)
}

// place estimates how long one more login would wait for its turn.
func (a *penalty) place(now time.Time) time.Duration {
	return max(a.next.Sub(now), 0) + time.Duration(a.inLine)*penaltyDelay(a.level)
}

func (a *penalty) grow(now time.Time) {
	a.level = min(a.level+1, penaltyMaxLevel)
	a.grown = now
}

// repeated reports whether the same wrong password has been seen of late, and
// remembers it: a phone that has not been told of the new password is no
// attacker.
func (a *penalty) repeated(mac [16]byte, now time.Time) bool {
	i := slices.IndexFunc(a.wrong, func(w wrongPassword) bool { return w.mac == mac })
	known := i >= 0
	if !known && len(a.wrong) == wrongKept {
		i = 0
	}
	if i >= 0 {
		a.wrong = slices.Delete(a.wrong, i, i+1)
	}
	a.wrong = append(a.wrong, wrongPassword{mac, now})
	return known
}

// passwordMAC binds a password to the login that it was tried with, so that one
// password tried on every account is no repetition.
func passwordMAC(key []byte, login, password string) [16]byte {
	h := hmac.New(sha256.New, key)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(login)))
	h.Write(n[:])
	h.Write([]byte(login))
	h.Write([]byte(password))
	return [16]byte(h.Sum(nil))
}

// await waits for a turn. It returns the cause of ctx if that ends first.
func await(ctx context.Context, turn <-chan struct{}) error {
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pause waits for d, or returns the cause of ctx if that ends first.
func pause(ctx context.Context, d time.Duration) error {
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
