package throttle

import "time"

// A budget counts what has been used up of a number of guesses. It is the same as a token
// bucket: what has been used up comes back with time, and nothing else brings it back. So
// within any hour, at most rate.most + rate.perHour guesses are made.
type budget struct {
	used float64
	at   time.Time // when used was right
}

// A rate is the size of a budget, and how much of it comes back in an hour.
type rate struct{ most, perHour float64 }

// left returns what is left at the time now.
func (b *budget) left(now time.Time, r rate) float64 {
	if hours := now.Sub(b.at).Hours(); hours > 0 {
		b.used = max(b.used-hours*r.perHour, 0)
		b.at = now
	}
	return r.most - b.used
}

// take uses up one guess, unless less than one is left.
func (b *budget) take(now time.Time, r rate) bool {
	if b.left(now, r) < 1 {
		return false
	}
	b.used++
	return true
}

// giveBack undoes take.
func (b *budget) giveBack(now time.Time, r rate) {
	b.left(now, r)
	b.used = max(b.used-1, 0)
}
