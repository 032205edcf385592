package server

import (
	"context"
	"time"

	"postern/relay"
	"postern/relay/message"
	"postern/server/smtpd"
)

// sendOnce is send, unless the client has sent the very message before and has not
// seen its 250: then that is repeated, and nothing is sent.
//
// Where another session is sending the message (the client gave up waiting and came
// again), or it is not known yet whether the client has seen the 250 (it came again
// on a new connection, and the old one has not ended), this waits for the outcome
// until ctx ends. Then the reply is 451: nothing is lost, since the client keeps the
// message, and nothing is sent twice.
func (s *session) sendOnce(ctx context.Context, t *transaction, m *message.Message, size int64) *smtpd.Reply {
	key := t.fingerprint.key(t.envelope)
	if s.receipts.inHand(key) {
		// It may be this client's own message, after which it has gone on.
		s.conn.ReplySeen()
	}
	e, again, err := s.receipts.claim(ctx, key, t.id)
	if err != nil {
		return withCause(replyInHand, err)
	}
	if again {
		s.events.Duplicate(t.event(size), e.message, e.Receipt)
	} else if refused := s.sendFirst(ctx, t, m, size, e); refused != nil {
		return refused
	}
	table := s.receipts
	r := acceptedReply(e.Text)
	r.OnSeen = func(seen bool) { table.seen(e, seen) }
	return r
}

// sendFirst is send for a message that has a receipt to be filled in.
func (s *session) sendFirst(ctx context.Context, t *transaction, m *message.Message, size int64, e *receipt) *smtpd.Reply {
	t.receipt = e
	sent := false
	defer func() {
		if !sent && !t.late {
			s.receipts.forget(e)
		}
	}()
	receipt, refused := s.send(ctx, t, m, size)
	if refused != nil {
		return refused
	}
	sent = true
	s.receipts.answered(e, receipt)
	return nil
}

// awaitLate is the Late of t's envelope: it takes an answer that comes when the
// client has received 451 because the hop was silent, and has come again or will.
func (s *session) awaitLate(t *transaction, await relay.Await) bool {
	events, table := s.events, s.receipts // the session may have ended by then
	t.late = s.server.overdue.wait(await, func(receipt relay.Receipt, err error) {
		if err != nil {
			events.NoLateAnswer(t.event(0), err)
			table.forget(t.receipt)
			return
		}
		events.AcceptedLate(t.event(0), receipt, time.Since(t.begun))
		table.arm(t.receipt, receipt)
	})
	return t.late
}
