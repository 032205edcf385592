package server

import (
	"context"
	"time"

	"postern/relay"
	"postern/relay/message"
)

// sendOnce is send, unless the client has sent the very message before and has
// not seen its 250: then it is told so again, and nothing is sent.
//
// Where another session has the message in hand (the client gave up waiting
// and came again), or nobody knows yet whether the client has seen the 250 (it
// came again from elsewhere, and its old connection has not ended), this waits
// within the bound of a reply for the outcome. When that is over, 451 is said:
// nothing is lost, for the client keeps the message, and nothing is sent twice.
func (s *session) sendOnce(ctx context.Context, t *transaction, m *message.Message, size int64) error {
	key := t.fingerprint.key(t.envelope)
	if s.receipts.inHand(key) {
		// It may be this client's own, which has gone on behind it.
		s.conn.settle(true)
	}
	e, again, err := s.receipts.claim(ctx, key, t.id)
	if err != nil {
		return s.refuse("DATA", t, "", replyInHand, err)
	}
	if again {
		s.log.duplicate(t, size, e)
	} else if err := s.sendFirst(ctx, t, m, size, e); err != nil {
		return err
	}
	s.awaitSight(e)
	return accepted(e.Text)
}

// unackedTime is how long the 250 may stay unacknowledged, when it may be needed
// again. It is less than what the one who comes again waits for.
const unackedTime = time.Minute

// awaitSight watches over the 250 that is about to be said.
func (s *session) awaitSight(e *receipt) {
	client, table := s.conn.Conn, s.receipts
	giveUpUnacked(client, unackedTime)
	s.conn.afterReply(func(seen bool) {
		if seen {
			giveUpUnacked(client, 0)
		}
		table.seen(e, seen)
	})
}

// sendFirst is send for a message that has a receipt to be filled in.
func (s *session) sendFirst(ctx context.Context, t *transaction, m *message.Message, size int64, e *receipt) error {
	t.receipt = e
	sent := false
	defer func() {
		if !sent && !t.late {
			s.receipts.forget(e)
		}
	}()
	said, err := s.send(ctx, t, m, size)
	if err != nil {
		return err
	}
	sent = true
	s.receipts.answered(e, said)
	return nil
}

// awaitLate is the Late of t's envelope: it takes an answer that comes when the
// client has been told 451 for the hop's silence, and has come again or will.
func (s *session) awaitLate(t *transaction, await relay.Await) bool {
	log, table := s.log, s.receipts // the session will be gone
	t.late = s.overdue.wait(await, func(said relay.Receipt, err error) {
		if err != nil {
			log.noLateAnswer(t, err)
			table.forget(t.receipt)
			return
		}
		log.acceptedLate(t, said, time.Since(t.begun))
		table.arm(t.receipt, said)
	})
	return t.late
}
