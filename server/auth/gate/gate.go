// Package gate bounds how much is done at once for those who log in.
package gate

import (
	"container/list"
	"context"
	"sync"
)

// A Gate lets a fixed number of callers through at once. The others wait in two
// lines, each in order of arrival: the second moves on only while the first is
// empty. So those who have logged in before do not wait behind those who guess.
// It is safe for use by many goroutines.
type Gate struct {
	mu    sync.Mutex
	free  int
	lines [2]list.List // of chan struct{}, closed when it is the waiter's turn
}

// New returns a gate with that many places.
func New(places int) *Gate { return &Gate{free: places} }

// Enter waits until there is a place, or returns the cause of ctx if that ends
// first. Who has entered leaves.
func (g *Gate) Enter(ctx context.Context, first bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	line := &g.lines[1]
	if first {
		line = &g.lines[0]
	}
	turn := make(chan struct{})
	waiter := line.PushBack(turn)
	g.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	if g.giveUp(line, waiter, turn) {
		g.Leave()
	}
	return context.Cause(ctx)
}

// giveUp takes a waiter out of its line, and reports whether its turn had come at
// the same moment.
func (g *Gate) giveUp(line *list.List, waiter *list.Element, turn <-chan struct{}) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-turn:
		return true
	default:
		line.Remove(waiter)
		return false
	}
}

// Leave gives the place to the next in line.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.lines {
		if next := g.lines[i].Front(); next != nil {
			close(g.lines[i].Remove(next).(chan struct{}))
			return
		}
	}
	g.free++
}
