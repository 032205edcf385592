package relay

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"postern/test/kit"
)

// line puts users in line one after the other and returns where the name of
// each appears who gets a seat.
func line(t *testing.T, q *queue, users ...string) <-chan string {
	t.Helper()
	granted := make(chan string)
	for i, user := range users {
		go func() {
			if q.wait(t.Context(), user) == nil {
				granted <- user
			}
		}()
		kit.Eventually(t, "in line", func() bool { return q.length() == i+1 })
	}
	return granted
}

func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, l := range q.waiting {
		n += len(l)
	}
	return n
}

func TestUsersTakeTurns(t *testing.T) {
	q := newQueue(1)
	if !q.try("mallory") || q.try("mallory") || q.try("alice") {
		t.Fatal("one seat for one")
	}
	granted := line(t, q, "mallory", "mallory", "mallory", "alice", "alice", "bob")
	holder, got := "mallory", []string(nil)
	for range 6 {
		q.leave(holder)
		holder = <-granted
		got = append(got, holder)
	}
	want := []string{"mallory", "alice", "bob", "mallory", "alice", "mallory"}
	if !slices.Equal(got, want) {
		t.Errorf("seats went to %v, want %v", got, want)
	}
	q.leave(holder)
	wantEmpty(t, q, 1)
}

func wantEmpty(t *testing.T, q *queue, seats int) {
	t.Helper()
	if q.free != seats || len(q.held)+len(q.waiting)+len(q.turn) != 0 {
		t.Errorf("something is left: %+v", q)
	}
}

func TestNobodyGetsEverySeat(t *testing.T) {
	for seats, share := range map[int]int{1: 1, 2: 1, 3: 2, 4: 3, 8: 6, 20: 15} {
		q := newQueue(seats)
		got := 0
		for q.try("mallory") {
			got++
		}
		if got != share {
			t.Errorf("%d of %d seats, want %d", got, seats, share)
		}
		if others := q.try("alice"); others != (seats > 1) {
			t.Errorf("%d seats: somebody else gets one: %v", seats, others)
		}
	}
}

// Who has all he can have does not keep the others from getting theirs.
func TestShareDoesNotBlockTheLine(t *testing.T) {
	q := newQueue(2)
	q.try("mallory")
	granted := line(t, q, "mallory")
	if !q.try("alice") {
		t.Fatal("alice has to wait for mallory")
	}
	q.leave("alice")
	q.leave("mallory")
	if got := <-granted; got != "mallory" {
		t.Errorf("%s got the seat", got)
	}
	q.leave("mallory")
	wantEmpty(t, q, 2)
}

func TestGivingUp(t *testing.T) {
	q := newQueue(1)
	q.try("alice")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := q.wait(ctx, "bob"); !errors.Is(err, errBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	// A seat that comes in the very moment of giving up is not lost.
	late := make(chan struct{})
	q.giveUp("alice", late)
	wantEmpty(t, q, 1)
}
