package auth

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Until there is a verdict, the login keeps its place at the address and at the store.
func TestAbandonedLoginKeepsItsPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		store := newTestStore("pam", slowNo(8*time.Second, &n), withTimeout(10*time.Second, 4))
		l, slow := localOf(store)
		s := newTestSession(t)
		for i := range 3 { // so that the address has a penalty
			_ = attempt(t, l, s.peer(1), "alice", fmt.Sprint("first ", i), time.Hour)
		}
		n.Store(0)
		begun := time.Now()
		if err := attempt(t, l, s.peer(1), "alice", "guess", 10*time.Second); !errors.Is(err, ErrPending) {
			t.Error(err)
		}
		if n.Load() != 1 {
			t.Errorf("%d guesses examined", n.Load())
		}
		if got := waitOf(t, slow, s.peer(1), "bob"); time.Since(begun) < 16*time.Second || got == 0 {
			t.Errorf("the next login from the address begins after %v", time.Since(begun))
		}
		// Another address with the same login: the one slot of this login is in use.
		n.Store(0)
		for i := range 3 {
			_ = attempt(t, l, s.peer(2+i), "eve", "guess", time.Second)
		}
		if n.Load() != 1 {
			t.Errorf("the store examines %d guesses at eve at once, want 1 of 4", n.Load())
		}
	})
}

// However many clients hang up, the store has at most as many questions as slots, and none
// waits without its client.
func TestAbandonedLoginsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots = 8
		running := new(atomic.Int32)
		hang := verifierFunc(func(ctx context.Context, _ *Peer, _, _ string) (Identity, error) {
			running.Add(1)
			defer running.Add(-1)
			<-ctx.Done()
			return Identity{}, ctx.Err()
		})
		l, _ := localOf(newTestStore("hangs", hang, withTimeout(10*time.Second, slots)))
		s := newTestSession(t)
		for i := range 1000 {
			go attempt(t, l, s.peer(i), fmt.Sprint("user", i), "guess", time.Second)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if running.Load() != slots || s.held.Load() != slots {
			t.Errorf("%d questions at the store, %d held, want %d", running.Load(), s.held.Load(), slots)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if running.Load() != 0 || s.held.Load() != 0 {
			t.Errorf("%d questions at the store, %d held at the end", running.Load(), s.held.Load())
		}
	})
}

// Questions that wait for the second store are bounded, too, since its slots are not theirs.
func TestAbandonedLoginsAtASecondStoreAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots = 8
		var n atomic.Int32
		hang := newTestStore("hangs", hangs, withTimeout(10*time.Second, slots))
		l, _ := localOf(newTestStore("first", slowNo(time.Second, &n), withTimeout(10*time.Second, 1000)), hang)
		s := newTestSession(t)
		for i := range 500 {
			go attempt(t, l, s.peer(i), fmt.Sprint("user", i), "guess", 500*time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s.held.Load() > 2*slots || n.Load() < 250 {
			t.Errorf("%d examined by the first store, %d still held, want at most %d", n.Load(), s.held.Load(), 2*slots)
		}
	})
}

// A login that no store was asked for, for whatever reason, does not count and is reported as
// abandoned.
func TestLoginsThatReachNoStoreDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, slow := localOf(newTestStore("busy", hangs, withTimeout(10*time.Second, 1)))
		s := newTestSession(t)
		go attempt(t, l, s.peer(1), "alice", "secret", time.Hour)
		synctest.Wait()
		err := attempt(t, l, s.peer(2), "bob", "guess", time.Second)
		synctest.Wait()
		reports := s.reports()
		if errors.Is(err, ErrPending) == (len(reports) == 0) || len(reports) > 1 || len(reports) == 1 && reports[0] != ErrAbandoned.Error() {
			t.Errorf("%v, reported %q", err, reports)
		}
		if got := waitOf(t, slow, s.peer(2), "bob"); got != 0 {
			t.Errorf("the next login waits %v", got)
		}
	})
}
