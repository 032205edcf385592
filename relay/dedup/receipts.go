package dedup

import (
	"container/list"
	"context"
	"sync"
	"time"

	"postern/relay"
)

const (
	lifetime   = 10 * time.Minute // from the moment when the first 250 is known to be lost
	maxEntries = 10_000           // each is well under a kilobyte
)

// Receipts is the table of messages that clients may send again. It lives as long as the
// process, over all configurations. A message is in one of these states:
//
//	sending   a session sends it to the next hop, or a late reply is awaited
//	answered  250 was sent, and whether the client has seen it is not known
//	armed     the client has not seen it: a repeated submission gets the same 250
//
// A message that is not in the table is sent. That includes all those whose client has seen
// its 250: if it sends the same once more, it does so on purpose.
//
// A repeated submission waits while the message is sending or answered, until it is armed
// or forgotten. An entry that was used is answered again and kept, as the second 250 may be
// lost like the first. It ends when a client has seen a 250 for it, or ten minutes after
// the first 250 that was lost: from then on the message of a device that sends the same
// each time, and never QUIT, is sent again.
//
// Its methods may be called by many goroutines at once. Expired entries are removed by the
// next call.
type Receipts struct {
	limit  int
	now    func() time.Time
	events Events

	ctx    context.Context // of the late replies, until Close
	cancel context.CancelFunc

	mu    sync.Mutex
	known map[key]*entry
	armed list.List // of *entry, the one armed last at the end

	awaited  int // late replies
	awaiting sync.WaitGroup
	closed   bool
}

// An entry is one message in the table. It belongs to the session that claim returned it
// to, until that session reports what became of the message.
type entry struct {
	key     key
	session string // that sends it, or has sent it last
	message string // the id under which it was sent

	answered  bool   // 250 was sent to the session
	hop, text string // of the receipt

	place   *list.Element // in Receipts.armed
	expires time.Time     // zero until it is armed for the first time
	decided chan struct{} // closed when it is armed or forgotten
}

// NewReceipts returns an empty table.
func NewReceipts(events Events) *Receipts {
	r := &Receipts{limit: maxEntries, now: time.Now, events: events, known: make(map[key]*entry)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Close ends the wait for late replies. It is called after the last session has ended: a
// session that waits for the same reply would send its message then.
func (r *Receipts) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.awaiting.Wait()
}

// claim decides whether the message of e has to be sent. If again is true, it has been
// sent: the caller repeats the reply, and then calls seen. Otherwise the caller sends it,
// and calls answered and then seen, or else arm or forget. claim waits for another session
// that is sending the same message. The error is ctx's.
func (r *Receipts) claim(ctx context.Context, k key, e *relay.Envelope) (found *entry, again bool, err error) {
	for {
		found, again, decided := r.try(k, e)
		if found != nil {
			return found, again, nil
		}
		select {
		case <-decided:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// try is claim without the waiting: if it finds nothing, decided is closed when another try
// makes sense.
func (r *Receipts) try(k key, e *relay.Envelope) (found *entry, again bool, decided <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire()
	found = r.known[k]
	switch {
	case found == nil:
		return r.enter(k, e), false, nil
	case found.place == nil && found.answered && found.session == e.Session:
		// The client has gone on after its own message, so it has seen the reply, or does
		// not look for it. It may have sent both in one packet.
		r.decide(found, false)
		return r.enter(k, e), false, nil
	case found.place == nil:
		return nil, false, found.decided
	case !r.now().Before(found.expires): // expire has not come to it, since others were armed before
		r.drop(found)
		return r.enter(k, e), false, nil
	}
	r.disarm(found)
	found.session = e.Session
	found.decided = make(chan struct{})
	return found, true, nil
}

// enter makes room for a new message by dropping the entry that has been armed for longest.
// In a table full of messages that are being sent there is none to drop: then the message
// is sent without an entry in the table.
func (r *Receipts) enter(k key, e *relay.Envelope) *entry {
	made := &entry{key: k, session: e.Session, message: e.Message, decided: make(chan struct{})}
	if oldest := r.armed.Front(); oldest != nil && len(r.known) >= r.limit {
		r.drop(oldest.Value.(*entry))
	}
	if len(r.known) < r.limit {
		r.known[k] = made
	}
	return made
}

// answered notes the hop's reply to a message, before it is repeated to the client.
func (r *Receipts) answered(e *entry, receipt relay.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.answered, e.hop, e.text = true, receipt.Hop, receipt.Text
}

// seen notes whether the client has seen the 250.
func (r *Receipts) seen(e *entry, seen bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.decide(e, !seen)
}

// arm notes a late reply of the hop: the client has received 451, as it was not known
// what had become of its message.
func (r *Receipts) arm(e *entry, receipt relay.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.answered, e.hop, e.text = true, receipt.Hop, receipt.Text
	r.decide(e, true)
}

// forget notes that the message has not been sent, or that it is not known.
func (r *Receipts) forget(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.decide(e, false)
}

func (r *Receipts) decide(e *entry, arm bool) {
	if r.known[e.key] != e {
		return // the table was full, or the client has gone on
	}
	if arm {
		if e.expires.IsZero() {
			e.expires = r.now().Add(lifetime)
		}
		e.place = r.armed.PushBack(e)
	} else {
		delete(r.known, e.key)
	}
	close(e.decided)
}

// expire drops the armed entries that have expired.
func (r *Receipts) expire() {
	for p := r.armed.Front(); p != nil; p = r.armed.Front() {
		e := p.Value.(*entry)
		if r.now().Before(e.expires) {
			return
		}
		r.drop(e)
	}
}

func (r *Receipts) drop(e *entry) {
	r.disarm(e)
	delete(r.known, e.key)
}

func (r *Receipts) disarm(e *entry) {
	r.armed.Remove(e.place)
	e.place = nil
}
