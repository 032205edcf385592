package dedup

import (
	"log/slog"
	"time"

	"postern/relay"
)

// Events receives what happens to a message after its client has received 451. Its methods
// are called by many goroutines at once. The server logs duplicates itself (Receipt.First).
// [NewLog] makes one that writes the log; docs/log.md lists the events.
type Events interface {
	AcceptedLate(e *relay.Envelope, recipients int, receipt relay.Receipt, took time.Duration)
	NoLateAnswer(e *relay.Envelope, err error)
}

type eventLog struct{ *slog.Logger }

// NewLog returns Events that are written to l, with the keys of the session first.
func NewLog(l *slog.Logger) Events { return eventLog{l} }

func (l eventLog) session(e *relay.Envelope) *slog.Logger {
	return l.With("session", e.Session, "listener", e.Listener, "client", e.Remote.Addr().String())
}

func (l eventLog) AcceptedLate(e *relay.Envelope, recipients int, receipt relay.Receipt, took time.Duration) {
	l.session(e).Info("accepted late", "message", e.Message, "user", e.Login, "from", e.Sender, "nrcpt", recipients,
		"hop", receipt.Hop, "queue_id", receipt.QueueID(), "reply", receipt.Text, "took_ms", took.Milliseconds())
}

func (l eventLog) NoLateAnswer(e *relay.Envelope, err error) {
	l.session(e).Info("no late answer", "message", e.Message, "user", e.Login, "from", e.Sender, "err", err)
}
