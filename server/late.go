package server

import (
	"context"
	"sync"

	"postern/relay"
)

// maxLateAnswers is how many late answers are waited for at once. Each occupies a
// connection to the next hop, which is busy with the message anyway.
const maxLateAnswers = 64

// lateAnswers waits for replies of the next hop to messages whose clients have received
// 451 already. Its methods may be called by many goroutines at once.
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

// wait calls await in a goroutine, which close ends, and passes its result to then. It
// reports false if there are too many.
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

// close gives up all waiting. It is called after the last session has ended: one that
// waits for the same answer would send its message then.
func (l *lateAnswers) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.running.Wait()
}
