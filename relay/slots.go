package relay

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// slots bound the number of connections in use. Users get them in turn: a user with 200
// waiting sessions does not delay a user with one. A quarter of the slots, but at
// least one of several, is not available to any single user.
type slots struct {
	mu         sync.Mutex
	free       int
	perUserMax int
	inUse      map[string]int             // by user
	waiting    map[string][]chan struct{} // by user, the longest first; closed when granted
	turn       []string                   // the users in waiting, the next first
}

func newSlots(n int) *slots {
	return &slots{
		free:       n,
		perUserMax: max(1, n-max(1, n/4)),
		inUse:      map[string]int{},
		waiting:    map[string][]chan struct{}{},
	}
}

// try takes a slot if there is one for user now.
func (s *slots) try(user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free == 0 || s.inUse[user] >= s.perUserMax || len(s.waiting[user]) > 0 {
		return false
	}
	s.free--
	s.inUse[user]++
	return true
}

// acquire takes a slot as soon as it is user's turn.
func (s *slots) acquire(ctx context.Context, user string) error {
	granted := make(chan struct{})
	s.mu.Lock()
	if len(s.waiting[user]) == 0 {
		s.turn = append(s.turn, user)
	}
	s.waiting[user] = append(s.waiting[user], granted)
	s.grant()
	s.mu.Unlock()
	select {
	case <-granted:
		return nil
	case <-ctx.Done():
		s.giveUp(user, granted)
		return fmt.Errorf("%w: %w", errBusy, ctx.Err())
	}
}

// giveUp stops waiting; a slot that was granted meanwhile is released.
func (s *slots) giveUp(user string, granted chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting[user], granted); i >= 0 {
		s.waiting[user] = slices.Delete(s.waiting[user], i, i+1)
		s.removeIdle(user)
		return
	}
	s.put(user)
}

// release ends the use of a slot by user.
func (s *slots) release(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(user)
}

func (s *slots) put(user string) {
	s.free++
	if s.inUse[user]--; s.inUse[user] == 0 {
		delete(s.inUse, user)
	}
	s.grant()
}

// grant gives the free slots to the users whose turn it is.
func (s *slots) grant() {
	for s.free > 0 {
		i := slices.IndexFunc(s.turn, func(user string) bool { return s.inUse[user] < s.perUserMax })
		if i < 0 {
			return
		}
		user := s.turn[i]
		s.turn = append(slices.Delete(s.turn, i, i+1), user)
		s.free--
		s.inUse[user]++
		close(s.waiting[user][0])
		s.waiting[user] = s.waiting[user][1:]
		s.removeIdle(user)
	}
}

// removeIdle removes a user from turn if none of its sessions waits any more.
func (s *slots) removeIdle(user string) {
	if len(s.waiting[user]) > 0 {
		return
	}
	delete(s.waiting, user)
	s.turn = slices.DeleteFunc(s.turn, func(u string) bool { return u == user })
}
