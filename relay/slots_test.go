package relay

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"postern/test/kit"
)

// queueUp makes users wait one after the other. The channel receives the name of each
// user that gets a slot.
func queueUp(t *testing.T, s *slots, users ...string) <-chan string {
	t.Helper()
	granted := make(chan string)
	for i, user := range users {
		go func() {
			if s.acquire(t.Context(), user) == nil {
				granted <- user
			}
		}()
		kit.Eventually(t, "the user waits", func() bool { return s.queueLength() == i+1 })
	}
	return granted
}

func (s *slots) queueLength() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, l := range s.waiting {
		n += len(l)
	}
	return n
}

func TestUsersTakeTurns(t *testing.T) {
	s := newSlots(1)
	if !s.try("mallory") || s.try("mallory") || s.try("alice") {
		t.Fatal("one slot must be granted exactly once")
	}
	granted := queueUp(t, s, "mallory", "mallory", "mallory", "alice", "alice", "bob")
	holder, got := "mallory", []string(nil)
	for range 6 {
		s.release(holder)
		holder = <-granted
		got = append(got, holder)
	}
	want := []string{"mallory", "alice", "bob", "mallory", "alice", "mallory"}
	if !slices.Equal(got, want) {
		t.Errorf("the slot was granted to %v, want %v", got, want)
	}
	s.release(holder)
	wantUnused(t, s, 1)
}

func wantUnused(t *testing.T, s *slots, n int) {
	t.Helper()
	if s.free != n || len(s.inUse)+len(s.waiting)+len(s.turn) != 0 {
		t.Errorf("slots are still in use: %+v", s)
	}
}

func TestOneUserCannotTakeAllSlots(t *testing.T) {
	for n, most := range map[int]int{1: 1, 2: 1, 3: 2, 4: 3, 8: 6, 20: 15} {
		s := newSlots(n)
		got := 0
		for s.try("mallory") {
			got++
		}
		if got != most {
			t.Errorf("%d of %d slots, want %d", got, n, most)
		}
		if other := s.try("alice"); other != (n > 1) {
			t.Errorf("%d slots: another user gets one: %v", n, other)
		}
	}
}

// A user that waits because of perUserMax does not delay other users.
func TestUserMaximumDoesNotBlockOthers(t *testing.T) {
	s := newSlots(2)
	s.try("mallory")
	granted := queueUp(t, s, "mallory")
	if !s.try("alice") {
		t.Fatal("alice has to wait for mallory")
	}
	s.release("alice")
	s.release("mallory")
	if got := <-granted; got != "mallory" {
		t.Errorf("%s got the slot", got)
	}
	s.release("mallory")
	wantUnused(t, s, 2)
}

func TestGivingUp(t *testing.T) {
	s := newSlots(1)
	s.try("alice")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.acquire(ctx, "bob"); !errors.Is(err, errBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	// A slot that is granted while the waiter gives up is not lost.
	late := make(chan struct{})
	s.giveUp("alice", late)
	wantUnused(t, s, 1)
}
