package certs

import (
	"fmt"
	"io/fs"
	"log/slog"
	"time"
)

// Events receives everything that the log and the metrics need to know of the
// certificates. Its methods are called by many goroutines at once and must not block.
// [NewLog] makes one that writes the log; docs/log.md lists the events.
type Events interface {
	Reloaded(i Info)

	// ReloadFailed is called once for each reason. The old certificate of the pair, which
	// is valid until notAfter, stays in use.
	ReloadFailed(p Pair, notAfter time.Time, err error)

	Invalid(i Info) // or soon will be: i.Warning is the reason
	KeyWorldReadable(key string, mode fs.FileMode)

	// WatchFailed reports that a change of a file may be noticed only a minute later.
	// started is false if the system gives no notifications at all.
	WatchFailed(started bool, err error)
}

// An eventLog writes the events to a log, one line each.
type eventLog struct{ *slog.Logger }

// NewLog returns Events that are written to l.
func NewLog(l *slog.Logger) Events { return eventLog{l} }

func (l eventLog) Reloaded(i Info) {
	l.Info("certificate reloaded", "cert", i.Cert, "names", i.Names, "not_after", i.NotAfter)
}

func (l eventLog) ReloadFailed(p Pair, notAfter time.Time, err error) {
	l.Error("certificate cannot be reloaded; the old one stays", "cert", p.Cert, "key", p.Key, "not_after", notAfter, "err", err)
}

func (l eventLog) Invalid(i Info) {
	l.Warn(i.Warning, "cert", i.Cert, "names", i.Names, "not_after", i.NotAfter)
}

func (l eventLog) KeyWorldReadable(key string, mode fs.FileMode) {
	l.Warn("private key can be read by everybody on this machine; take that away with chmod o=",
		"key", key, "mode", fmt.Sprintf("%04o", mode))
}

func (l eventLog) WatchFailed(started bool, err error) {
	if started {
		l.Warn("notification of changed certificates failed; looking every minute still", "err", err)
		return
	}
	l.Warn("no notification of changed certificates; looking every minute", "err", err)
}
