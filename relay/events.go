package relay

import "log/slog"

// Events receives everything that the log and the metrics need to know of the next hops.
// Its methods are called by many goroutines at once and must not block. [NewLog] makes
// one that writes the log; docs/log.md lists the events.
type Events interface {
	HopDown(hop string, err error)
	HopUp(hop string)

	// DSNDropped reports that parameters of a message are lost, once per transaction.
	DSNDropped(session, hop, reason string)

	ConnectionLost(hop, command string, err error) // after the command, while the pool resets it
	ConnectionRetired(hop string, c Retired)
}

// Retired is a connection that is not used again, though it works.
type Retired struct {
	Reason    string
	Delivered int // messages
	Refusals  int // since the last delivered message
	Releases  int // likewise: returned to the pool with a transaction open
}

// An eventLog writes the events to a log, one line each.
type eventLog struct{ *slog.Logger }

// NewLog returns Events that are written to l.
func NewLog(l *slog.Logger) Events { return eventLog{l} }

func (l eventLog) HopDown(hop string, err error) { l.Warn("next hop down", "hop", hop, "err", err) }

func (l eventLog) HopUp(hop string) { l.Info("next hop up", "hop", hop) }

func (l eventLog) DSNDropped(session, hop, reason string) {
	l.Info("DSN parameters dropped", "session", session, "hop", hop, "reason", reason)
}

func (l eventLog) ConnectionLost(hop, command string, err error) {
	l.Debug("connection lost", "hop", hop, "at", command, "err", err)
}

func (l eventLog) ConnectionRetired(hop string, c Retired) {
	l.Debug("connection retired", "hop", hop, "reason", c.Reason,
		"delivered", c.Delivered, "refusals", c.Refusals, "give_backs", c.Releases)
}
