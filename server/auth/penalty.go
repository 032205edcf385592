package auth

import (
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

// penalty is the state of one address: its failed logins, and the queue of its logins.
// The fields are guarded by the throttle's lock.
type penalty struct {
	inLine  int             // logins that are being verified or wait for that
	running int             // those that are being verified
	waiting []chan struct{} // the others in order; closed when it is their turn

	level int
	grown time.Time // when level last grew
	next  time.Time // no verification before this
	wrong []wrongPassword
}

// wrongPassword identifies a wrong password without containing it.
type wrongPassword struct {
	mac  [16]byte
	seen time.Time
}

// queue adds a login. turn is closed when it may be verified.
func (a *penalty) queue(places int) (turn chan struct{}) {
	turn = make(chan struct{})
	a.inLine++
	a.waiting = append(a.waiting, turn)
	a.callUp(places)
	return turn
}

// callUp starts the logins that may be verified now: as many at once as there are
// places, or one at a time from an address with failures. That bounds the gain of an
// attacker to one burst of so many guesses, since the first of them to fail holds back
// the other logins in the queue.
func (a *penalty) callUp(places int) {
	if a.level > 0 {
		places = 1
	}
	for len(a.waiting) > 0 && a.running < places {
		a.running++
		close(a.waiting[0])
		a.waiting = slices.Delete(a.waiting, 0, 1)
	}
}

// quit removes a login that is being verified or waits for that.
func (a *penalty) quit(turn chan struct{}, places int) {
	a.inLine--
	if i := slices.Index(a.waiting, turn); i >= 0 {
		a.waiting = slices.Delete(a.waiting, i, i+1)
		return
	}
	a.running--
	a.callUp(places)
}

// age removes the failures that are older than an hour.
func (a *penalty) age(now time.Time) {
	if now.Sub(a.grown) >= penaltyKept {
		a.level = 0
	}
	a.wrong = slices.DeleteFunc(a.wrong, func(w wrongPassword) bool { return now.Sub(w.seen) >= penaltyKept })
}

// place estimates how long one more login would wait.
func (a *penalty) place(now time.Time) time.Duration {
	return max(a.next.Sub(now), 0) + time.Duration(a.inLine)*penaltyDelay(a.level)
}

func (a *penalty) grow(now time.Time) {
	a.level = min(a.level+1, penaltyMaxLevel)
	a.grown = now
}

// repeated reports whether the same wrong password has been seen within the last hour,
// and remembers it: a phone that still has the old password is not an attacker.
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
