package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
)

// A job is the work on one message, whose entry is busy.
type job struct {
	spool  *Spool
	entry  *entry
	outage *outage
	file   *os.File
	*content

	// The result of an attempt.
	delivered []bool            // by recipient: the hop has accepted the message
	replies   []*smtp.SMTPError // by recipient: the refusals by the hop
	replied   bool              // the hop has replied at all
	hopDown   error             // why the hop could not be asked, or not for all recipients
	damage    error
	aborted   bool // by Close: the result says nothing about the message or the hop
}

var errStillDown = errors.New("no next hop replies")

// deliver makes one attempt for one message. o is the outage of its hops.
func (s *Spool) deliver(ctx context.Context, e *entry, o *outage) {
	s.work(e, o, func(j *job) {
		acquire := s.messages
		if j.Report {
			acquire = s.reports
		}
		hop, release := acquire(j.Envelope.Listener)
		defer release()
		// If the hop refused the whole message, the reason may be one recipient (see
		// relay.Transaction). Then a second transaction finds out which one. No recipient
		// is pending if only the removal of the file failed before.
		if len(j.pending()) > 0 && !j.transact(ctx, hop, true) {
			j.transact(ctx, hop, false)
		}
		j.aborted = ctx.Err() != nil
	})
	if !o.lasts() || ctx.Err() != nil {
		return
	}
	// No hop replies. Expired or long delayed messages are reported to their senders,
	// without an attempt for each of them.
	tried := map[*entry]bool{} // once each: the disk may be full
	overdue := func(e *entry) bool {
		late := s.expired(e.arrived) || e.delayWarning && time.Since(e.arrived) > s.pace.delayWarning
		return !tried[e] && late && s.outageOf(e.listener) == o
	}
	for e := s.index.claim(overdue); e != nil && ctx.Err() == nil; e = s.index.claim(overdue) {
		tried[e] = true
		s.work(e, o, func(j *job) { j.hopDown = errStillDown })
	}
}

// work opens the file of e, which is busy, calls do, and records the result.
func (s *Spool) work(e *entry, o *outage, do func(*job)) {
	file, c, err := s.folder.open(e.id)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist): // held or removed
		s.index.remove(e)
		return
	case errors.Is(err, errDamaged):
		s.discard(e, err)
		return
	default:
		s.events.DiskError(ReadMessage, e.id, err)
		s.index.release(e, e.mtime, time.Now().Add(s.pace.hopDownMax))
		return
	}
	for _, i := range e.done {
		c.done[i] = true
	}
	j := &job{
		spool: s, entry: e, outage: o, file: file, content: c,
		delivered: make([]bool, len(c.To)), replies: make([]*smtp.SMTPError, len(c.To)),
	}
	do(j)
	j.finish()
	_ = file.Close() // everything that matters has been synced
}

func (s *Spool) discard(e *entry, reason error) {
	s.setAside(e.id, reason)
	s.index.remove(e)
}

// transact makes one transaction for the pending recipients. It returns false, which it
// does only if again is true, if another transaction is needed because the message was
// refused for several recipients.
func (j *job) transact(ctx context.Context, next relay.NextHop, again bool) bool {
	t, err := next.Begin(ctx, j.Envelope.relay(j.Size))
	if err != nil {
		j.hopDown = err
		return true
	}
	defer t.Close()
	accepted := j.sendRecipients(ctx, t)
	if j.hopDown != nil || len(accepted) == 0 {
		return true
	}
	receipt, err := j.send(ctx, t)
	relay.Abandon(err)
	refusal, refused := errors.AsType[*smtp.SMTPError](err)
	switch {
	case err == nil:
		for _, i := range accepted {
			j.delivered[i] = true
		}
		j.spool.events.Delivered(j.event(), len(accepted), receipt, time.Since(j.Arrived))
	case refused && again && len(accepted) > 1 && !refusal.Temporary():
		return false
	case refused:
		for _, i := range accepted {
			j.replies[i] = refusal
		}
	case errors.Is(err, errDamaged):
		j.damage = err
	default:
		j.hopDown = err
	}
	return true
}

// sendRecipients sends the pending recipients and returns those that the hop accepts.
func (j *job) sendRecipients(ctx context.Context, t relay.Transaction) (accepted []int) {
	for _, i := range j.pending() {
		if j.replies[i] != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, j.spool.pace.callTimeout)
		err := t.Rcpt(ctx, j.To[i].Address, j.To[i].options())
		cancel()
		var refusal *smtp.SMTPError
		switch {
		case err == nil:
			accepted = append(accepted, i)
		case errors.As(err, &refusal):
			j.replies[i] = refusal
		default:
			j.hopDown = err
			return nil
		}
		j.replied = true
	}
	return accepted
}

func (j *job) send(ctx context.Context, t relay.Transaction) (relay.Receipt, error) {
	m, err := j.message()
	if err != nil {
		return relay.Receipt{}, err
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(ctx, j.spool.pace.callTimeout)
	defer cancel()
	return t.Send(ctx, m)
}

// message returns the message as it was spooled. The caller closes it.
func (j *job) message() (*message.Message, error) {
	if err := j.verify(j.file); err != nil {
		return nil, err
	}
	file, err := os.Open(j.spool.folder.path(queued, j.entry.id))
	if err != nil {
		return nil, err
	}
	m, err := j.spool.stage.Reopen(file, j.start, j.Size, j.EightBit)
	if errors.Is(err, message.ErrHeaderTooLarge) {
		return nil, damaged("%v", err)
	}
	return m, err
}

func (j *job) event() MessageEvent {
	return MessageEvent{j.Envelope.Session, j.entry.id, j.Envelope.Sender}
}

// finish records the result of an attempt: reports first, then which recipients are done,
// so that a crash in between repeats a report and does not lose one.
func (j *job) finish() {
	s := j.spool
	if j.damage != nil {
		s.discard(j.entry, j.damage)
		return
	}
	switch {
	case j.aborted:
	case j.hopDown != nil && !j.replied:
		j.outage.begin(&s.pace, s.events, j.hopDown)
	case j.replied:
		j.outage.end(s.events)
	}
	done := j.doneNow()
	if len(done) < len(j.pending()) {
		j.requeue(done)
		return
	}
	if err := s.folder.remove(j.entry.id); err != nil {
		s.events.DiskError(RemoveMessage, j.entry.id, err)
		j.entry.done = append(j.entry.done, done...) // so that it is not sent again
		s.index.release(j.entry, j.entry.mtime, time.Now().Add(s.pace.hopDownMax))
		return
	}
	s.index.remove(j.entry)
}

// doneNow returns the pending recipients that need no further attempt: the message was
// delivered, or the report about the failure is in the spool, or no report is due.
func (j *job) doneNow() (done []int) {
	expired := !j.aborted && j.spool.expired(j.Arrived)
	var failures []failure
	for _, i := range j.pending() {
		reply := j.replies[i]
		switch {
		case j.delivered[i]:
			done = append(done, i)
		case reply != nil && !reply.Temporary():
			failures = append(failures, failure{i, statusOf(reply), reply})
		case expired:
			// RFC 3463, section 3.5: X.4.7, delivery time expired.
			failures = append(failures, failure{i, "4.4.7", reply})
		}
	}
	for _, f := range failures {
		j.spool.events.Failed(j.event(), j.To[f.place].Address, f.status, f.diagnostic())
	}
	if len(failures) == 0 || !j.report(failed, wanted(j.To, failures, smtp.DSNNotifyFailure)) {
		return done
	}
	for _, f := range failures {
		done = append(done, f.place)
	}
	return done
}

// wanted returns the failures about which the sender wants a report.
func wanted(to []recipient, failures []failure, what smtp.DSNNotify) (some []failure) {
	for _, f := range failures {
		if to[f.place].wants(what) {
			some = append(some, f)
		}
	}
	return some
}

// requeue records what has been done and when the message is due again.
func (j *job) requeue(done []int) {
	s := j.spool
	r := record{Time: time.Now(), Done: done, Tries: j.tries, Reason: j.reason}
	r.Delayed = j.warnOfDelay(done)
	refused := !j.aborted && (j.hopDown == nil || j.replied) // it was about this message
	if refused {
		r.Tries++
		r.Reason = j.failureReason()
	}
	if refused || len(done) > 0 || r.Delayed {
		if err := s.folder.append(j.file, j.content, &r); err != nil {
			// The disk may be full. A recipient gets the message twice only if the process
			// ends before it can be recorded.
			s.events.DiskError(WriteRecord, j.entry.id, err)
			j.entry.done = append(j.entry.done, r.Done...)
		}
	}
	due := time.Now()
	switch {
	case j.aborted:
	case refused:
		due = due.Add(doubled(s.pace.firstRetry, r.Tries-1, s.pace.retryMax))
		s.events.Deferred(j.event(), r.Tries, time.Until(due), r.Reason)
	default:
		// The message is hardly ever the reason that no hop replies, so the pause is short.
		// If it is the reason, other messages are tried during the pause.
		j.entry.hopDowns++
		due = due.Add(doubled(s.pace.hopDownPause, j.entry.hopDowns-1, s.pace.hopDownMax))
	}
	mtime, err := s.folder.postpone(j.entry.id, due)
	if err != nil {
		mtime = j.entry.mtime // held or removed: the next scan finds out
	}
	s.index.release(j.entry, mtime, due)
}

// failureReason returns the reason why the attempt failed, on one line.
func (j *job) failureReason() string {
	if j.hopDown != nil {
		return oneLine(j.hopDown.Error())
	}
	for _, i := range j.pending() {
		if reply := j.replies[i]; reply != nil {
			return oneLine(fmt.Sprintf("<%s>: %s", j.To[i].Address, failure{reply: reply}.diagnostic()))
		}
	}
	return ""
}

// warnOfDelay reports the delay to the sender if it is time, and returns whether it has
// done so.
func (j *job) warnOfDelay(done []int) bool {
	if !j.entry.delayWarning || j.aborted || time.Since(j.Arrived) < j.spool.pace.delayWarning || j.spool.expired(j.Arrived) {
		return false
	}
	isDone := make(map[int]bool, len(done))
	for _, i := range done {
		isDone[i] = true
	}
	var late []failure
	for _, i := range j.pending() {
		if isDone[i] {
			continue
		}
		status := "4.4.1" // RFC 3463, section 3.5: no answer from host
		if j.replies[i] != nil {
			status = statusOf(j.replies[i])
		}
		late = append(late, failure{i, status, j.replies[i]})
	}
	if !j.report(delayed, wanted(j.To, late, smtp.DSNNotifyDelayed)) {
		return false
	}
	j.entry.delayWarning = false
	return true
}
