package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What is measured here is meant of a machine that is there for the server and
// its clients alone, takes 60 ms for a hash, and does not stand still.

// slowness is how many times as long the machine computes on one hash, 1 at the
// least. Whoever else computes does not count.
func slowness(t *testing.T) float64 {
	t.Helper()
	const usual = 60 * time.Millisecond
	file, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
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

// A span is some time, such as that in which the machine stood still.
type span struct{ from, to time.Time }

func (s span) length() time.Duration { return s.to.Sub(s.from) }

// without is the length of s but for what falls into the pauses.
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

// watchMachine notes when the machine stands still, as one does that is virtual
// or has a quota: not even a timer of this process goes off then. Who only has
// many to share it with gets his turn long before.
func watchMachine() (pauses func() []span) {
	const tick, still = 10 * time.Millisecond, 100 * time.Millisecond
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
			if now.Sub(last) > still {
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
