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

// penalty is what is held against one address. The fields are guarded by the
// throttle's lock; turn is a lock of its own, taken before it.
type penalty struct {
	turn   chan struct{} // holds one token while a verification runs or is next
	inLine int           // logins that have the turn or wait for it

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

func newPenalty() *penalty { return &penalty{turn: make(chan struct{}, 1)} }

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

// await takes the turn. It returns the cause of ctx if that ends first.
func (a *penalty) await(ctx context.Context) error {
	select {
	case a.turn <- struct{}{}:
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
