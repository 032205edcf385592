package relay

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// A queue hands out a number of seats, to the users in turn: one who has 200
// sessions waiting does not stand before one who has a single one. A quarter
// of the seats, but at least one, is out of reach of any single user.
type queue struct {
	mu      sync.Mutex
	free    int
	share   int                        // how many seats one user can have
	held    map[string]int             // by user
	waiting map[string][]chan struct{} // by user, the longest first; closed when granted
	turn    []string                   // the users in waiting, the next first
}

func newQueue(seats int) *queue {
	return &queue{
		free:    seats,
		share:   max(1, seats-max(1, seats/4)),
		held:    map[string]int{},
		waiting: map[string][]chan struct{}{},
	}
}

// try takes a seat if user need not wait for it.
func (q *queue) try(user string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.free == 0 || q.held[user] >= q.share || len(q.waiting[user]) > 0 {
		return false
	}
	q.free--
	q.held[user]++
	return true
}

// wait takes a seat as soon as it is user's turn.
func (q *queue) wait(ctx context.Context, user string) error {
	granted := make(chan struct{})
	q.mu.Lock()
	if len(q.waiting[user]) == 0 {
		q.turn = append(q.turn, user)
	}
	q.waiting[user] = append(q.waiting[user], granted)
	q.grant()
	q.mu.Unlock()
	select {
	case <-granted:
		return nil
	case <-ctx.Done():
		q.giveUp(user, granted)
		return fmt.Errorf("%w: %w", errBusy, ctx.Err())
	}
}

// giveUp leaves the line; a seat that was granted meanwhile is passed on.
func (q *queue) giveUp(user string, granted chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting[user], granted); i >= 0 {
		q.waiting[user] = slices.Delete(q.waiting[user], i, i+1)
		q.forget(user)
		return
	}
	q.release(user)
}

// leave gives a seat of user back.
func (q *queue) leave(user string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.release(user)
}

func (q *queue) release(user string) {
	q.free++
	if q.held[user]--; q.held[user] == 0 {
		delete(q.held, user)
	}
	q.grant()
}

// grant gives what is free to those whose turn it is.
func (q *queue) grant() {
	for q.free > 0 {
		i := slices.IndexFunc(q.turn, func(user string) bool { return q.held[user] < q.share })
		if i < 0 {
			return
		}
		user := q.turn[i]
		q.turn = append(slices.Delete(q.turn, i, i+1), user)
		q.free--
		q.held[user]++
		close(q.waiting[user][0])
		q.waiting[user] = q.waiting[user][1:]
		q.forget(user)
	}
}

// forget takes a user out of turn who waits for nothing any more.
func (q *queue) forget(user string) {
	if len(q.waiting[user]) > 0 {
		return
	}
	delete(q.waiting, user)
	q.turn = slices.DeleteFunc(q.turn, func(u string) bool { return u == user })
}
