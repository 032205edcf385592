package spool

import (
	"log/slog"
	"time"

	"postern/relay"
)

// Events receives everything that the log and the metrics need to know of the spool. Its
// methods are called by many goroutines at once and must not block. [NewLog] makes one
// that writes the log; docs/log.md lists the events.
type Events interface {
	Spooled(m MessageEvent, nrcpt int, size int64, reason error)
	Delivered(m MessageEvent, nrcpt int, r relay.Receipt, waited time.Duration)
	Deferred(m MessageEvent, tries int, next time.Duration, reason string)
	Failed(m MessageEvent, to, status, reply string)

	// ReportSpooled is called for a report, m.From being the null sender, on the message
	// with the queue id about, which is sent to the sender of that message.
	ReportSpooled(m MessageEvent, about, action, to string, nrcpt int)

	HopDown(reason error) // no hop replies; one message at a time is tried
	HopUp()

	Damaged(queueID, file string, reason error) // file is where the message is now
	DiskError(op Operation, queueID string, err error)
}

// A MessageEvent identifies a message of the spool.
type MessageEvent struct {
	Session string // of the client
	QueueID string
	From    string
}

// An Operation is one that failed, as in the log. It is tried again.
type Operation string

const (
	ReadFolder    Operation = "cannot read the spool" // has no queue id
	ReadMessage   Operation = "cannot read a spooled message"
	WriteRecord   Operation = "cannot note the state of a spooled message"
	RemoveMessage Operation = "cannot remove a spooled message that is done with"
	SetAside      Operation = "cannot set it aside"
	WriteReport   Operation = "cannot write a report"
	KeepReport    Operation = "cannot keep a report"
)

// An eventLog writes the events to a log, one line each.
type eventLog struct{ *slog.Logger }

// NewLog returns Events that are written to l.
func NewLog(l *slog.Logger) Events { return eventLog{l} }

func (l eventLog) Spooled(m MessageEvent, nrcpt int, size int64, reason error) {
	l.Warn("message spooled", "session", m.Session, "queue_id", m.QueueID, "from", m.From, "nrcpt", nrcpt, "size", size, "err", reason)
}

func (l eventLog) Delivered(m MessageEvent, nrcpt int, r relay.Receipt, waited time.Duration) {
	l.Info("delivered from the spool", "session", m.Session, "queue_id", m.QueueID, "from", m.From,
		"nrcpt", nrcpt, "hop", r.Hop, "reply", r.Text, "waited_s", int(waited.Seconds()))
}

func (l eventLog) Deferred(m MessageEvent, tries int, next time.Duration, reason string) {
	l.Info("delivery deferred", "session", m.Session, "queue_id", m.QueueID, "tries", tries, "next_s", int(next.Seconds()), "err", reason)
}

func (l eventLog) Failed(m MessageEvent, to, status, reply string) {
	l.Warn("spooled message failed", "session", m.Session, "queue_id", m.QueueID, "from", m.From, "to", to, "status", status, "reply", reply)
}

func (l eventLog) ReportSpooled(m MessageEvent, about, action, to string, nrcpt int) {
	l.Info("report spooled", "session", m.Session, "queue_id", m.QueueID, "about", about, "action", action, "to", to, "nrcpt", nrcpt)
}

func (l eventLog) HopDown(reason error) { l.Warn("spool waits for the next hop", "err", reason) }

func (l eventLog) HopUp() { l.Info("spool has found the next hop again") }

func (l eventLog) Damaged(queueID, file string, reason error) {
	l.Error("spooled message is damaged and set aside", "queue_id", queueID, "file", file, "err", reason)
}

func (l eventLog) DiskError(op Operation, queueID string, err error) {
	if op == ReadFolder {
		l.Error(string(op), "err", err)
		return
	}
	l.Error(string(op), "queue_id", queueID, "err", err)
}
