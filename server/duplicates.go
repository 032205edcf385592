package server

import (
	"container/list"
	"context"
	"sync"
	"time"

	"postern/relay"
)

// A client that does not see its 250 sends the message again (RFC 5321,
// section 4.5.3.2.6), and its recipients get it twice (RFC 1047). Where
// suppress_duplicates is on, the receipts remember for a while what the next
// hop has said yes to, and the second one gets that answer.
const (
	receiptLife = 10 * time.Minute // from the moment when the first 250 is known to be lost
	maxReceipts = 10_000           // each is well under a kilobyte
)

// receipts is the table of what clients may send once more. A message is in
// one of these states:
//
//	sending   a session hands it to the next hop, or waits for a late answer
//	answered  a 250 was said, and whether the client has seen it is not known
//	armed     the client has not seen it: who comes again gets the same 250
//
// A message that is not in the table is sent. That is so for all those whose
// client has seen its 250: who sends the same once more means it.
//
// Whoever comes while the message is sending or answered waits until it is
// armed or forgotten. A used receipt is answered again, not gone: the second
// 250 may be lost like the first. So it ends when a client has seen a 250 for
// it, or ten minutes after the first one that was lost: a device that says the
// same each time and never QUIT is heard again then.
//
// Its methods may be called by many goroutines at once. It needs no goroutine
// of its own: what has expired goes when somebody comes.
type receipts struct {
	limit int
	now   func() time.Time

	mu    sync.Mutex
	known map[messageKey]*receipt
	armed list.List // of *receipt, the one armed last at the end
}

// A receipt is one entry of the table. It belongs to the session that claim
// has returned it to, until that says what became of the message.
type receipt struct {
	key     messageKey
	message string // the id under which it was sent
	relay.Receipt

	place   *list.Element // among the armed ones
	expires time.Time     // zero until it is armed for the first time
	decided chan struct{} // closed when it is armed or forgotten
}

func newReceipts() *receipts {
	return &receipts{limit: maxReceipts, now: time.Now, known: make(map[messageKey]*receipt)}
}

// claim asks whether a message is to be sent. If it returns again, the message
// has been sent, and what the receipt says is to be said: then seen is to be
// called. If not, it is the caller's to send: then answered is to be called, and
// seen, or else arm or forget. Before that, claim waits for whoever has the
// message in hand. The error is ctx's.
func (r *receipts) claim(ctx context.Context, key messageKey, message string) (e *receipt, again bool, err error) {
	for {
		e, again, decided := r.try(key, message)
		if e != nil {
			return e, again, nil
		}
		select {
		case <-decided:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// try is claim, but for the waiting: without a receipt, decided is closed when
// it is worth another try.
func (r *receipts) try(key messageKey, message string) (e *receipt, again bool, decided <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire()
	e = r.known[key]
	switch {
	case e == nil:
		return r.enter(key, message), false, nil
	case e.place == nil:
		return nil, false, e.decided
	case !r.now().Before(e.expires): // behind one that was armed later
		r.drop(e)
		return r.enter(key, message), false, nil
	}
	r.disarm(e)
	e.decided = make(chan struct{})
	return e, true, nil
}

// inHand reports whether claim would have to wait.
func (r *receipts) inHand(key messageKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.known[key]
	return e != nil && e.place == nil
}

// enter makes room for a new message, at the cost of the receipt that has been
// armed for longest. In a table full of messages on their way there is none to
// be had: then the message is sent without being remembered.
func (r *receipts) enter(key messageKey, message string) *receipt {
	e := &receipt{key: key, message: message, decided: make(chan struct{})}
	if oldest := r.armed.Front(); oldest != nil && len(r.known) >= r.limit {
		r.drop(oldest.Value.(*receipt))
	}
	if len(r.known) < r.limit {
		r.known[key] = e
	}
	return e
}

// answered notes what the hop has said to a message that was sent, before a
// client is told.
func (r *receipts) answered(e *receipt, said relay.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Receipt = said
}

// seen notes whether the client has seen the 250.
func (r *receipts) seen(e *receipt, seen bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.decide(e, !seen)
}

// arm notes what the hop has said to a message whose client was told that
// nobody knows.
func (r *receipts) arm(e *receipt, said relay.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Receipt = said
	r.decide(e, true)
}

// forget notes that the message has not been sent, or that nobody knows.
func (r *receipts) forget(e *receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.decide(e, false)
}

func (r *receipts) decide(e *receipt, arm bool) {
	if r.known[e.key] != e {
		return // there was no room for it
	}
	if arm {
		if e.expires.IsZero() {
			e.expires = r.now().Add(receiptLife)
		}
		e.place = r.armed.PushBack(e)
	} else {
		delete(r.known, e.key)
	}
	close(e.decided)
}

// expire forgets the armed receipts whose time is over.
func (r *receipts) expire() {
	for p := r.armed.Front(); p != nil; p = r.armed.Front() {
		e := p.Value.(*receipt)
		if r.now().Before(e.expires) {
			return
		}
		r.drop(e)
	}
}

func (r *receipts) drop(e *receipt) {
	r.disarm(e)
	delete(r.known, e.key)
}

func (r *receipts) disarm(e *receipt) {
	r.armed.Remove(e.place)
	e.place = nil
}
