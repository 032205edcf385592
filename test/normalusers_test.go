package test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/test/kit"
)

// normalUsers send messages while a test attacks the server: each connects, logs in, sends
// a message and quits, from its own address, and then starts again. One that is refused
// tries again soon, as people do.
type normalUsers struct {
	mu    sync.Mutex
	sent  []span // each from the first attempt to the 250
	again int    // attempts that did not end in a 250
	last  error  // the reason of the latest of them

	stop   chan struct{}
	done   sync.WaitGroup
	pauses func() []span // of the machine
}

const (
	userCount  = 8
	userPause  = 30 * time.Millisecond // between two messages of a user
	userRetry  = 100 * time.Millisecond
	userGiveUp = 30 * time.Second
)

// startUsers returns when each user has sent a message.
func (p *postern) startUsers(t *testing.T) *normalUsers {
	t.Helper()
	h := &normalUsers{stop: make(chan struct{}), pauses: watchMachine()}
	kit.Must(t, inBackground(userCount, func(i int) error { return h.message(p, i) })())
	h.sent = nil // only what follows counts
	for i := range userCount {
		h.done.Go(func() { h.work(p, i) })
	}
	return h
}

func (h *normalUsers) work(p *postern, i int) {
	for {
		select {
		case <-h.stop:
			return
		case <-time.After(userPause):
		}
		if err := h.message(p, i); err != nil {
			h.mu.Lock()
			h.last = err
			h.mu.Unlock()
			return
		}
	}
}

// message tries to send a message until it is accepted.
func (h *normalUsers) message(p *postern, i int) error {
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
		if now.Sub(begun) > userGiveUp {
			return fmt.Errorf("a user gave up after %d attempts: %w", n+1, err)
		}
		time.Sleep(userRetry)
	}
}

// sendOne sends one message in one session.
func (p *postern) sendOne(user string, i int) error {
	c, err := p.login(user, loopbackClient(i))
	if err != nil {
		return err
	}
	defer c.Close()
	from := user + "@example.org"
	if err := accepted(c.submit(letter("normal"), from, "bob@example.net")); err != nil {
		return err
	}
	return c.want(221, "QUIT")
}

// stopUsers stops the users and returns their statistics.
func (h *normalUsers) stopUsers() userStats {
	close(h.stop)
	h.done.Wait()
	pauses := h.pauses()
	f := userStats{messages: len(h.sent), again: h.again, last: h.last}
	for _, p := range pauses {
		f.paused += p.length()
	}
	if f.messages == 0 {
		f.last = errors.Join(f.last, errors.New("no message of a normal user was accepted"))
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

// userStats are the statistics of normal users. The times do not include pauses of the
// machine.
type userStats struct {
	messages      int
	again         int
	last          error
	p50, p99, max time.Duration
	paused        time.Duration // of the machine
}

// good reports whether nearly all attempts succeeded, and in time.
func (f userStats) good(limit time.Duration) bool {
	return f.messages >= 20 && f.again <= f.messages/20 && f.p99 < limit
}

func (f userStats) String() string {
	s := fmt.Sprintf("%d messages, p50 %v, p99 %v, longest %v", f.messages,
		f.p50.Round(time.Millisecond), f.p99.Round(time.Millisecond), f.max.Round(time.Millisecond))
	if f.paused > 0 {
		s += fmt.Sprintf("; the machine paused for %v of it", f.paused.Round(time.Millisecond))
	}
	if f.again > 0 {
		s += fmt.Sprintf("; %d failed attempts, the last one: %v", f.again, f.last)
	}
	return s
}

// The limits of the measurements are for a machine that runs only the server and its
// clients, needs 60 ms for a hash, and never pauses. The functions below measure how far
// this machine differs from that.

// slowness returns the CPU time of one hash on this machine, relative to the usual time;
// at least 1. Other processes do not affect it.
func slowness(t *testing.T) float64 {
	t.Helper()
	const usual = 60 * time.Millisecond
	file, err := plainProgram()
	kit.Must(t, err)
	users := filepath.Join(t.TempDir(), "users")
	var took []time.Duration
	for n := range 5 {
		cmd := exec.Command(file, "passwd", "--stdin", "--scheme", "bcrypt", users, fmt.Sprintf("user%d", n))
		cmd.Stdin = strings.NewReader(password)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("postern passwd: %v\n%s", err, out)
		}
		took = append(took, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	}
	slices.Sort(took)
	return max(1, float64(took[len(took)/2])/float64(usual))
}

// A span is a period of time, such as a pause of the machine.
type span struct{ from, to time.Time }

func (s span) length() time.Duration { return s.to.Sub(s.from) }

// without returns the length of s without the pauses in it.
func (s span) without(pauses []span) time.Duration {
	left := s.length()
	for _, p := range pauses {
		if p.from.Before(s.from) {
			p.from = s.from
		}
		if p.to.After(s.to) {
			p.to = s.to
		}
		left -= max(0, p.length())
	}
	return left
}

// watchMachine records when the machine pauses, as a virtual machine or one with a quota
// does: no timer of this process fires then. On a machine that is only busy a timer fires
// much earlier than after the limit.
func watchMachine() (pauses func() []span) {
	const tick, limit = 10 * time.Millisecond, 100 * time.Millisecond
	var all []span
	var watching sync.WaitGroup
	end := make(chan struct{})
	watching.Go(func() {
		ticks := time.NewTicker(tick)
		defer ticks.Stop()
		for last := time.Now(); ; {
			select {
			case <-end:
				return
			case <-ticks.C:
			}
			now := time.Now()
			if now.Sub(last) > limit {
				all = append(all, span{last, now})
			}
			last = now
		}
	})
	return func() []span {
		close(end)
		watching.Wait()
		return all
	}
}
