package relay

import "time"

// How long a transaction keeps its connection after its last recipient while
// the body is on its way from the client.
const (
	// Most clients have sent a short message within a second, and so spare
	// it the replay of MAIL and RCPT.
	dawdle = time.Second

	// While others wait for a connection it is given back sooner, but not
	// between two recipients of a client that uses PIPELINING.
	crowdedDawdle = 10 * time.Millisecond
)

// A parking is the stay of a connection with a transaction that has nothing
// to ask just now.
type parking struct {
	since time.Time
	timer *time.Timer
}

// park has yield called, in a goroutine of its own, when the connection is to
// be given back.
func (p *pool) park(yield func(*parking)) *parking {
	k := &parking{since: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	k.timer = time.AfterFunc(p.dawdle(), func() { yield(k) })
	p.parked[k] = struct{}{}
	return k
}

// unpark ends the stay. A yield that has begun already may still be running.
func (p *pool) unpark(k *parking) {
	k.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.parked, k)
}

// dawdle wants p.mu held.
func (p *pool) dawdle() time.Duration {
	if p.waiting > 0 {
		return crowdedDawdle
	}
	return dawdle
}

// hurry counts those who wait for a connection and makes the parked ones come
// back sooner. To hurry one more than once does no harm: its transaction
// gives up a connection once only.
func (p *pool) hurry(waiters int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting += waiters
	if waiters < 0 {
		return
	}
	for k := range p.parked {
		k.timer.Reset(max(0, crowdedDawdle-time.Since(k.since)))
	}
}
