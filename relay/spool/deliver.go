package spool

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
)

// A job is the work on one message whose entry is busy.
type job struct {
	spool *Spool
	entry *entry
	file  *os.File
	*content

	// What comes of an attempt.
	taken   []bool            // by recipients: the hop has the message for them
	replies []*smtp.SMTPError // by recipients: the hop's refusals
	heard   bool              // the hop has answered anything at all
	silent  error             // the hop could not be asked further
	damage  error
	cut     bool // we are being closed; nobody is to blame
}

// deliver makes one attempt for one message.
func (s *Spool) deliver(ctx context.Context, e *entry) {
	s.work(e, func(j *job) {
		acquire := s.messages
		if j.Report {
			acquire = s.reports
		}
		hop, release := acquire(j.Envelope.Listener)
		defer release()
		j.attempt(ctx, hop)
		j.cut = ctx.Err() != nil
	})
	if s.outage.wait(0) > 0 && ctx.Err() == nil {
		s.reportOverdue(ctx)
	}
}

// reportOverdue tells the senders of what has waited for too long while the
// hop is silent, without asking that for each message.
func (s *Spool) reportOverdue(ctx context.Context) {
	tried := map[*entry]bool{} // once: the disk may be full
	overdue := func(e *entry) bool {
		return !tried[e] && (s.expired(e.arrived) || e.alarm && time.Since(e.arrived) > s.pace.alarm)
	}
	for e := s.ledger.claim(overdue); e != nil && ctx.Err() == nil; e = s.ledger.claim(overdue) {
		tried[e] = true
		s.work(e, func(j *job) { j.silent = errStillSilent })
	}
}

var errStillSilent = errors.New("no next hop answers")

// work opens the file of e, which is busy, does something about it, and takes
// the consequences.
func (s *Spool) work(e *entry, do func(*job)) {
	file, c, err := s.folder.open(e.id)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist): // held or removed
		s.ledger.forget(e)
		return
	case errors.Is(err, errDamaged):
		s.discard(e, err)
		return
	default:
		s.events.DiskError(ReadMessage, e.id, err)
		s.ledger.release(e, e.mtime, time.Now().Add(s.pace.silence))
		return
	}
	for _, i := range e.done {
		c.done[i] = true
	}
	j := &job{
		spool: s, entry: e, file: file, content: c,
		taken: make([]bool, len(c.To)), replies: make([]*smtp.SMTPError, len(c.To)),
	}
	do(j)
	j.settle()
	_ = file.Close() // what matters has been synced
}

func (s *Spool) discard(e *entry, reason error) {
	s.setAside(e.id, reason)
	s.ledger.forget(e)
}

// attempt hands the message on. A refusal of the whole message may be about
// one recipient, which the hop was asked about again (see relay.Transaction):
// then the second time tells which one.
func (j *job) attempt(ctx context.Context, next relay.NextHop) {
	if len(j.pending()) == 0 {
		return // all is done, but the file was still there
	}
	if !j.hand(ctx, next, true) {
		j.hand(ctx, next, false)
	}
}

// hand reports whether its outcome is to stand. Unless it is the last time, a
// refusal for several recipients is not.
func (j *job) hand(ctx context.Context, next relay.NextHop, more bool) bool {
	t, err := next.Begin(ctx, j.Envelope.relay(j.Size))
	if err != nil {
		j.silent = err
		return true
	}
	defer t.Close()
	asked := j.ask(ctx, t)
	if j.silent != nil || len(asked) == 0 {
		return true
	}
	receipt, err := j.send(ctx, t)
	relay.Abandon(err)
	var refusal *smtp.SMTPError
	switch {
	case err == nil:
		j.took(asked, receipt)
	case errors.As(err, &refusal) && more && len(asked) > 1 && !refusal.Temporary():
		return false
	case errors.As(err, &refusal):
		for _, i := range asked {
			j.replies[i] = refusal
		}
	case errors.Is(err, errDamaged):
		j.damage = err
	default:
		j.silent = err
	}
	return true
}

// ask names the recipients to the hop and returns those whom it takes.
func (j *job) ask(ctx context.Context, t relay.Transaction) (accepted []int) {
	for _, i := range j.pending() {
		if j.replies[i] != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, j.spool.pace.call)
		err := t.Rcpt(ctx, j.To[i].Address, j.To[i].options())
		cancel()
		var refusal *smtp.SMTPError
		switch {
		case err == nil:
			accepted = append(accepted, i)
		case errors.As(err, &refusal):
			j.replies[i] = refusal
		default:
			j.silent = err
			return nil
		}
		j.heard = true
	}
	return accepted
}

func (j *job) send(ctx context.Context, t relay.Transaction) (relay.Receipt, error) {
	m, err := j.message()
	if err != nil {
		return relay.Receipt{}, err
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(ctx, j.spool.pace.call)
	defer cancel()
	return t.Send(ctx, m)
}

// message is the message as it was spooled. The caller closes it.
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

func (j *job) took(places []int, receipt relay.Receipt) {
	for _, i := range places {
		j.taken[i] = true
	}
	j.spool.events.Delivered(j.event(), len(places), receipt, time.Since(j.Arrived))
}

func (j *job) event() MessageEvent {
	return MessageEvent{j.Envelope.Session, j.entry.id, j.Envelope.Sender}
}
