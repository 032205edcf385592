package spool

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// While the hop comes and goes and the spool is opened again and again, every
// message that got its 250 arrives.
func TestNothingIsLost(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	said := map[string]bool{}
	for round := range 3 {
		if round > 0 {
			r = rigFor(t, dir, nil, r.hop)
		}
		r.deliver()
		flapping, stop := context.WithCancel(t.Context())
		var flaps sync.WaitGroup
		flaps.Go(func() {
			for flapping.Err() == nil {
				time.Sleep(40 * time.Millisecond)
				r.hop.Stop()
				time.Sleep(40 * time.Millisecond)
				r.hop.Start()
			}
		})
		for subject := range submitMany(r, round) {
			said[subject] = true
		}
		stop()
		flaps.Wait()
		if round < 2 {
			r.close()
		}
	}
	r.empty()
	got := map[string]int{}
	for _, s := range subjects(r.hop.Delivered()) {
		got[s]++
	}
	twice := 0
	for subject := range said {
		if got[subject] == 0 {
			t.Errorf("%s is lost", subject)
		}
		if got[subject] > 1 {
			twice++
		}
	}
	t.Logf("%d messages got 250, %d arrived more than once", len(said), twice)
	if len(said) < 60 {
		t.Errorf("only %d messages were taken", len(said))
	}
}

// submitMany submits as several users at once and returns the subjects of
// what was taken.
func submitMany(r *rig, round int) map[string]bool {
	var mu sync.Mutex
	taken := map[string]bool{}
	var users sync.WaitGroup
	for user := range 4 {
		users.Go(func() {
			for i := range 10 {
				m := toBob(fmt.Sprintf("%d-%d-%d", round, user, i))
				m.login = fmt.Sprint("user", user)
				if _, err := submit(context.Background(), r.front, m); err == nil {
					mu.Lock()
					taken[m.subject] = true
					mu.Unlock()
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	users.Wait()
	return taken
}
