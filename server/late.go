package server

import (
	"context"
	"sync"

	"postern/relay"
)

// maxLateAnswers is how many are awaited at once. Each has a connection to the
// next hop, which is busy with the message anyway.
const maxLateAnswers = 64

// lateAnswers waits for what the next hop says after the client has been told
// to come again. Its methods may be called by many goroutines at once.
type lateAnswers struct {
	ctx    context.Context // until close
	cancel context.CancelFunc

	mu      sync.Mutex
	waiting int
	closed  bool
	running sync.WaitGroup
}

func newLateAnswers() *lateAnswers {
	l := &lateAnswers{}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// wait has await called in a goroutine that ends with close, and then told of
// what came of it. It reports false if there are too many.
func (l *lateAnswers) wait(await relay.Await, then func(relay.Receipt, error)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.waiting >= maxLateAnswers {
		return false
	}
	l.waiting++
	l.running.Go(func() {
		defer l.leave()
		then(await(l.ctx))
	})
	return true
}

func (l *lateAnswers) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
}

// close gives up all waiting. It is for after the last session: one that waits
// for the same answer would send its message then.
func (l *lateAnswers) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.running.Wait()
}
