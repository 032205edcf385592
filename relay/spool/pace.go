package spool

import (
	"math/rand/v2"
	"sync"
	"time"
)

// A pace is how fast things happen. Tests have another one.
type pace struct {
	workers int           // deliveries at once; the pool leaves the rest of its connections to clients
	look    time.Duration // between two looks at the folder
	first   time.Duration // after a message's first failure; doubles
	last    time.Duration // the longest time between two attempts
	silence time.Duration // at most for a message that has found the hop silent
	pause   time.Duration // for all messages then, and for that one; doubles
	longest time.Duration // such pause
	alarm   time.Duration // until a delay is reported
	call    time.Duration // for one question to the hop
	grace   time.Duration // for deliveries under way at Close
}

func usualPace() pace {
	return pace{
		workers: 5,
		look:    5 * time.Second,
		first:   time.Minute,
		last:    time.Hour,
		silence: time.Minute,
		pause:   time.Second,
		longest: time.Minute,
		alarm:   4 * time.Hour,
		call:    3 * time.Minute,
		grace:   5 * time.Second,
	}
}

// backOff is how long to wait after so many failures of a message.
func (p *pace) backOff(tries int) time.Duration { return doubled(p.first, tries-1, p.last) }

// afterSilence is how long a message waits that has found no hop so many
// times. It is not its fault, so it does not wait for long; but it may be, and
// then the others have their turns.
func (p *pace) afterSilence(times int) time.Duration { return doubled(p.pause, times-1, p.silence) }

func doubled(wait time.Duration, times int, most time.Duration) time.Duration {
	for range times {
		if wait = 2 * wait; wait >= most {
			return jitter(most)
		}
	}
	return jitter(wait)
}

// jitter is d, give or take a quarter, so that what has failed together does
// not come again together.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}

// soon is t, unless the clock has been set back since that was written down.
func soon(t time.Time) time.Time {
	if now := time.Now(); t.Sub(now) > 2*time.Hour {
		return now
	}
	return t
}

// An outage is the time in which no hop answers. Then one message at a time
// tries, and the others wait.
type outage struct {
	mu    sync.Mutex
	down  bool
	pause time.Duration
	until time.Time
}

// begin notes that the hop was silent.
func (o *outage) begin(p *pace, events Events, reason error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	switch {
	case !o.down:
		o.down, o.pause = true, p.pause
		events.HopDown(reason)
	case now.Before(o.until): // one of those that were under way
		return
	default:
		o.pause = min(2*o.pause, p.longest)
	}
	o.until = now.Add(jitter(o.pause))
}

// end notes that the hop has answered.
func (o *outage) end(events Events) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down {
		o.down = false
		events.HopUp()
	}
}

// wait is how long nobody is to be tried, while so many are being tried.
func (o *outage) wait(active int) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !o.down:
		return 0
	case active > 0:
		return time.Hour // until it has found out
	}
	return time.Until(o.until)
}
