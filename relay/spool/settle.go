package spool

import (
	"fmt"
	"time"

	"github.com/emersion/go-smtp"
)

// settle takes the consequences of an attempt: reports first, then the note
// that recipients are done with, so that a crash in between repeats a report
// rather than losing one.
func (j *job) settle() {
	s := j.spool
	if j.damage != nil {
		s.discard(j.entry, j.damage)
		return
	}
	switch {
	case j.cut:
	case j.silent != nil && !j.heard:
		s.outage.begin(&s.pace, s.events, j.silent)
	case j.heard:
		s.outage.end(s.events)
	}
	done := j.finished()
	if len(done) == len(j.pending()) {
		j.leave(done)
		return
	}
	j.stay(done)
}

// finished are the recipients who need nothing more: they have the message, or
// their sender has a report.
func (j *job) finished() (done []int) {
	over := !j.cut && j.spool.expired(j.Arrived)
	var failures []failure
	for _, i := range j.pending() {
		reply := j.replies[i]
		switch {
		case j.taken[i]:
			done = append(done, i)
		case reply != nil && !reply.Temporary():
			failures = append(failures, failure{i, refusedStatus(reply), reply})
		case over:
			// RFC 3463 3.5: X.4.7, delivery time expired.
			failures = append(failures, failure{i, "4.4.7", reply})
		}
	}
	if len(failures) == 0 || !j.bounce(failures) {
		return done
	}
	for _, f := range failures {
		done = append(done, f.place)
	}
	return done
}

// bounce reports whether the failures are dealt with: the report is in the
// spool, or nobody wants one.
func (j *job) bounce(failures []failure) bool {
	for _, f := range failures {
		j.spool.events.Failed(j.event(), j.To[f.place].Address, f.status, f.diagnostic())
	}
	return j.report(failed, wanted(j.To, failures, smtp.DSNNotifyFailure))
}

// wanted are the failures that the sender wants to hear of.
func wanted(to []recipient, failures []failure, what smtp.DSNNotify) (some []failure) {
	for _, f := range failures {
		if to[f.place].wants(what) {
			some = append(some, f)
		}
	}
	return some
}

// leave takes the message out of the spool. If that fails, it is remembered
// that nobody is to get it again.
func (j *job) leave(done []int) {
	s, e := j.spool, j.entry
	if err := s.folder.remove(e.id); err != nil {
		s.events.DiskError(RemoveMessage, e.id, err)
		e.done = append(e.done, done...)
		s.ledger.release(e, e.mtime, time.Now().Add(s.pace.silence))
		return
	}
	s.ledger.forget(e)
}

// stay notes what has been done and when to go on.
func (j *job) stay(done []int) {
	r := record{Time: time.Now(), Done: done, Tries: j.tries, Reason: j.reason}
	r.Delayed = j.alarm(done)
	blamed := !j.cut && (j.silent == nil || j.heard) // it was about this message
	if blamed {
		r.Tries++
		r.Reason = j.why()
	}
	if blamed || len(done) > 0 || r.Delayed {
		j.write(&r)
	}
	due := time.Now()
	switch {
	case j.cut:
	case blamed:
		due = due.Add(j.spool.pace.backOff(r.Tries))
		j.spool.events.Deferred(j.event(), r.Tries, time.Until(due), r.Reason)
	default:
		j.entry.silences++
		due = due.Add(j.spool.pace.afterSilence(j.entry.silences))
	}
	j.postpone(due)
}

// write notes r in the file, or, if the disk is full, in memory: somebody
// gets the message twice only if we are stopped meanwhile.
func (j *job) write(r *record) {
	if err := j.spool.folder.note(j.file, j.content, r); err != nil {
		j.spool.events.DiskError(WriteRecord, j.entry.id, err)
		j.entry.done = append(j.entry.done, r.Done...)
	}
}

func (j *job) postpone(due time.Time) {
	mtime, err := j.spool.folder.postpone(j.entry.id, due)
	if err != nil {
		mtime = j.entry.mtime // held or removed: the next look will tell
	}
	j.spool.ledger.release(j.entry, mtime, due)
}

// why is the reason of the attempt's failure, on one line.
func (j *job) why() string {
	if j.silent != nil {
		return oneLine(j.silent.Error())
	}
	for _, i := range j.pending() {
		if reply := j.replies[i]; reply != nil {
			return oneLine(fmt.Sprintf("<%s>: %s", j.To[i].Address, failure{reply: reply}.diagnostic()))
		}
	}
	return ""
}

// alarm reports whether the sender has just been told of the delay.
func (j *job) alarm(done []int) bool {
	if !j.entry.alarm || j.cut || time.Since(j.Arrived) < j.spool.pace.alarm || j.spool.expired(j.Arrived) {
		return false
	}
	var late []failure
	for _, i := range remaining(j.pending(), done) {
		status := "4.4.1" // RFC 3463 3.5: no answer from host
		if j.replies[i] != nil {
			status = refusedStatus(j.replies[i])
		}
		late = append(late, failure{i, status, j.replies[i]})
	}
	if !j.report(delayed, wanted(j.To, late, smtp.DSNNotifyDelayed)) {
		return false
	}
	j.entry.alarm = false
	return true
}

func remaining(all, done []int) (rest []int) {
	gone := make(map[int]bool, len(done))
	for _, i := range done {
		gone[i] = true
	}
	for _, i := range all {
		if !gone[i] {
			rest = append(rest, i)
		}
	}
	return rest
}
