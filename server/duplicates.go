package server

import (
	"container/list"
	"context"
	"sync"
	"time"

	"postern/relay"
)

// A client that does not see its 250 sends the message again (RFC 5321, section
// 4.5.3.2.6), and its recipients get it twice (RFC 1047). Where suppress_duplicates
// is on, the receipts remember for a while what the next hop has accepted, and the
// reply is repeated.
const (
	receiptLife = 10 * time.Minute // from the moment when the first 250 is known to be lost
	maxReceipts = 10_000           // each is well under a kilobyte
)

// receipts is the table of what clients may send once more. A message is in
// one of these states:
//
//	sending   a session hands it to the next hop, or waits for a late answer
//	answered  250 was sent, and whether the client has seen it is not known
//	armed     the client has not seen it: a repeated submission gets the same 250
//
// A message that is not in the table is sent. That includes all those whose client
// has seen its 250: if it sends the same once more, it does so on purpose.
//
// A repeated submission waits while the message is sending or answered, until it is
// armed or forgotten. A used receipt is answered again and kept, as the second 250
// may be lost like the first. It ends when a client has seen a 250 for it, or ten
// minutes after the first 250 that was lost: from then on a device that sends the
// same each time, and never QUIT, is served anew.
//
// Its methods may be called by many goroutines at once. It needs no goroutine:
// expired receipts are removed by the next call.
type receipts struct {
	limit int
	now   func() time.Time

	mu    sync.Mutex
	known map[messageKey]*receipt
	armed list.List // of *receipt, the one armed last at the end
}

// A receipt is one entry of the table. It belongs to the session that claim returned it
// to, until that session reports what became of the message.
type receipt struct {
	key     messageKey
	message string // the id under which it was sent
	relay.Receipt

	place   *list.Element // in receipts.armed
	expires time.Time     // zero until it is armed for the first time
	decided chan struct{} // closed when it is armed or forgotten
}

func newReceipts() *receipts {
	return &receipts{limit: maxReceipts, now: time.Now, known: make(map[messageKey]*receipt)}
}

// claim decides whether a message has to be sent. If again is true, it has been sent:
// the caller repeats the reply of the receipt, and then calls seen. Otherwise the
// caller sends it, and calls answered and then seen, or else arm or forget. claim
// waits for another session that is sending the same message. The error is ctx's.
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

// try is claim without the waiting: if there is no receipt, decided is closed when
// another try makes sense.
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
	case !r.now().Before(e.expires): // expire has not come to it, since others were armed before
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

// enter makes room for a new message by dropping the receipt that has been armed for
// longest. In a table full of messages that are being sent there is none to drop:
// then the message is sent without a receipt in the table.
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

// answered notes the hop's reply to a message, before it is repeated to the client.
func (r *receipts) answered(e *receipt, reply relay.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Receipt = reply
}

// seen notes whether the client has seen the 250.
func (r *receipts) seen(e *receipt, seen bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.decide(e, !seen)
}

// arm notes a late reply of the hop: the client has received 451, as it was not known
// what had become of its message.
func (r *receipts) arm(e *receipt, reply relay.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Receipt = reply
	r.decide(e, true)
}

// forget notes that the message has not been sent, or that it is not known.
func (r *receipts) forget(e *receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.decide(e, false)
}

func (r *receipts) decide(e *receipt, arm bool) {
	if r.known[e.key] != e {
		return // it is not in the table, which was full
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

// expire drops the armed receipts that have expired.
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
