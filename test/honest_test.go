package test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// Honest users go on with their work whatever a test does to the server beside
// them: each connects, logs in, sends a message and quits, from an address of
// its own, and then does it again. One that is turned away tries again soon, as
// people do.
type honest struct {
	mu    sync.Mutex
	sent  []span // each from the first attempt to the 250
	again int    // attempts that did not end in a 250
	last  error  // the reason of the latest of them

	stop   chan struct{}
	done   sync.WaitGroup
	pauses func() []span // of the machine
}

const (
	honestUsers  = 8
	honestPause  = 30 * time.Millisecond // between two messages of one
	honestRetry  = 100 * time.Millisecond
	honestGiveUp = 30 * time.Second
)

// startHonest returns when each of them has sent a message.
func (p *postern) startHonest(t *testing.T) *honest {
	t.Helper()
	h := &honest{stop: make(chan struct{}), pauses: watchMachine()}
	if err := inBackground(honestUsers, func(i int) error { return h.message(p, i) })(); err != nil {
		t.Fatal(err)
	}
	h.sent = nil // what follows is what counts
	for i := range honestUsers {
		h.done.Go(func() { h.work(p, i) })
	}
	return h
}

func (h *honest) work(p *postern, i int) {
	for {
		select {
		case <-h.stop:
			return
		case <-time.After(honestPause):
		}
		if err := h.message(p, i); err != nil {
			h.mu.Lock()
			h.last = err
			h.mu.Unlock()
			return
		}
	}
}

// message tries to send one until it is accepted.
func (h *honest) message(p *postern, i int) error {
	begun := time.Now()
	for n := 0; ; n++ {
		err := p.sendOne([]string{"alice", "bob", "carol"}[i%3], i)
		now := time.Now()
		h.mu.Lock()
		if err == nil {
			h.sent = append(h.sent, span{begun, now})
			h.mu.Unlock()
			return nil
		}
		h.again++
		h.last = err
		h.mu.Unlock()
		if now.Sub(begun) > honestGiveUp {
			return fmt.Errorf("an honest user has given up after %d attempts: %w", n+1, err)
		}
		time.Sleep(honestRetry)
	}
}

// sendOne is one session of one message.
func (p *postern) sendOne(user string, i int) error {
	c, err := p.login(user, loopbackClient(i))
	if err != nil {
		return err
	}
	defer c.Close()
	from := user + "@example.org"
	if err := accepted(c.submit(letter("honest"), from, "bob@example.net")); err != nil {
		return err
	}
	return c.want(221, "QUIT")
}

// rest stops the users and tells how they fared.
func (h *honest) rest() fate {
	close(h.stop)
	h.done.Wait()
	pauses := h.pauses()
	f := fate{messages: len(h.sent), again: h.again, last: h.last}
	for _, p := range pauses {
		f.still += p.length()
	}
	if f.messages == 0 {
		f.last = errors.Join(f.last, errors.New("no message of an honest user was accepted"))
		return f
	}
	var took []time.Duration
	for _, s := range h.sent {
		took = append(took, s.without(pauses))
	}
	slices.Sort(took)
	f.p50, f.p99 = took[f.messages/2], took[f.messages*99/100]
	f.max = took[f.messages-1]
	return f
}

// A fate is what the honest users have met with. The times are those in which the
// machine was running.
type fate struct {
	messages      int
	again         int
	last          error
	p50, p99, max time.Duration
	still         time.Duration // in which it was not
}

// good reports whether they could work: hardly ever in vain, and in time.
func (f fate) good(limit time.Duration) bool {
	return f.messages >= 20 && f.again <= f.messages/20 && f.p99 < limit
}

func (f fate) String() string {
	s := fmt.Sprintf("%d messages, p50 %v, p99 %v, longest %v", f.messages,
		f.p50.Round(time.Millisecond), f.p99.Round(time.Millisecond), f.max.Round(time.Millisecond))
	if f.still > 0 {
		s += fmt.Sprintf("; the machine stood still for %v of it", f.still.Round(time.Millisecond))
	}
	if f.again > 0 {
		s += fmt.Sprintf("; %d attempts in vain, the last one: %v", f.again, f.last)
	}
	return s
}
