package semaphore

import (
	"container/list"
	"net/netip"
)

// A waiter is a request that has no slot yet.
type waiter struct {
	turn    Turn
	granted chan struct{} // closed when it has a slot

	in   *queue        // nil: in none
	flow *flow         // in the queue
	at   *list.Element // in the flow
}

// A queue has the waiters in two lines. Its zero value is empty.
type queue struct {
	lines   [2]line // the first one is for Turn.Known
	skipped int     // turns of the first line since the last one of the second, while that had waiters
}

// firstInARow is how many slots the first line gets before the second one gets one.
const firstInARow = 3

// A line has the waiters by network, and serves the networks in turn.
type line struct {
	order list.List // of *flow; the front is served next
	flows map[netip.Prefix]*flow
}

// A flow has the waiters of one network in order of arrival.
type flow struct {
	network netip.Prefix
	waiters list.List     // of *waiter
	at      *list.Element // in line.order
}

func (q *queue) of(w *waiter) *line {
	if w.turn.Known {
		return &q.lines[0]
	}
	return &q.lines[1]
}

func (q *queue) empty() bool { return q.lines[0].order.Len() == 0 && q.lines[1].order.Len() == 0 }

// push adds a waiter.
func (q *queue) push(w *waiter) {
	l := q.of(w)
	f := l.flows[w.turn.Network]
	if f == nil {
		f = &flow{network: w.turn.Network}
		f.at = l.order.PushBack(f)
		if l.flows == nil {
			l.flows = make(map[netip.Prefix]*flow)
		}
		l.flows[f.network] = f
	}
	w.in, w.flow, w.at = q, f, f.waiters.PushBack(w)
}

// pop removes the waiter whose turn it is, and returns it, or nil if there is none.
func (q *queue) pop() *waiter {
	first, second := &q.lines[0], &q.lines[1]
	l := first
	switch {
	case first.order.Len() == 0 || second.order.Len() > 0 && q.skipped >= firstInARow:
		l, q.skipped = second, 0
	case second.order.Len() > 0:
		q.skipped++
	}
	next := l.order.Front()
	if next == nil {
		return nil
	}
	w := next.Value.(*flow).waiters.Front().Value.(*waiter)
	l.order.MoveToBack(next)
	q.remove(w)
	return w
}

// remove removes a waiter that is in the queue.
func (q *queue) remove(w *waiter) {
	l := q.of(w)
	w.flow.waiters.Remove(w.at)
	if w.flow.waiters.Len() == 0 {
		l.order.Remove(w.flow.at)
		delete(l.flows, w.flow.network)
	}
	w.in, w.flow, w.at = nil, nil, nil
}
