// Package logging opens the log of the process: lines of key=value or JSON on
// stderr, in the systemd journal (with severities) or in the system log.
//
// Clients can put text of their choice into log values. No value can end a
// line, imitate another key or control a terminal: the handlers of log/slog
// quote and escape, and this package removes what they let pass and limits the
// length.
package logging

import (
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"unicode"
	"unicode/utf8"

	"postern/internal/text"
)

// Bounds for what one value adds to a line.
const (
	maxValue = 1024 // bytes of a string
	maxList  = 64   // elements of a list
)

// A Log is the log of the process. Its level can be changed while it is in use;
// its format and its destination cannot.
type Log struct {
	*slog.Logger
	level  slog.LevelVar
	syslog *syslog.Writer // or nil
}

// Open opens the log that cfg describes. Lines that cannot be delivered to the
// system log are written to stderr. The caller must call Close.
func Open(cfg Config, stderr io.Writer) (*Log, error) {
	l := new(Log)
	l.SetLevel(cfg.Level)
	switch {
	case cfg.Destination == Syslog:
		w, err := syslog.New(syslog.LOG_MAIL|syslog.LOG_INFO, cfg.SyslogName)
		if err != nil {
			return nil, explainSyslog(err, sockets)
		}
		l.toSyslog(cfg.Format, w, stderr)
	case isJournal(stderr):
		l.bySeverity(cfg.Format, func(s syslog.Priority) io.Writer { return &journalWriter{stderr, s} })
	default:
		l.Logger = slog.New(l.handler(cfg.Format, stderr, cleanAttr))
	}
	return l, nil
}

// CheckDestination returns the error with which Open would fail.
func CheckDestination(cfg Config) error {
	if cfg.Destination != Syslog {
		return nil
	}
	l, err := Open(cfg, io.Discard)
	if err != nil {
		return err
	}
	return l.Close()
}

// With returns a Log around an open logger, whose level stays as it is.
func With(logger *slog.Logger) *Log { return &Log{Logger: logger} }

// SetLevel changes the level for all further lines.
func (l *Log) SetLevel(level Level) { l.level.Set(slog.Level(level)) }

// Close closes the connection to the system log.
func (l *Log) Close() error {
	if l.syslog == nil {
		return nil
	}
	return l.syslog.Close()
}

func (l *Log) toSyslog(f Format, w *syslog.Writer, fallback io.Writer) {
	l.syslog = w
	l.bySeverity(f, func(s syslog.Priority) io.Writer { return &syslogWriter{w, s, fallback} })
}

// bySeverity opens one handler for each severity, which to writes with that
// severity. Lines have no time, since journal and system log both add it.
func (l *Log) bySeverity(f Format, to func(syslog.Priority) io.Writer) {
	handler := func(s syslog.Priority) slog.Handler { return l.handler(f, to(s), cleanUntimed) }
	l.Logger = slog.New(&severityHandler{
		debug: handler(syslog.LOG_DEBUG),
		info:  handler(syslog.LOG_INFO),
		warn:  handler(syslog.LOG_WARNING),
		err:   handler(syslog.LOG_ERR),
	})
}

func (l *Log) handler(f Format, w io.Writer, replace func([]string, slog.Attr) slog.Attr) slog.Handler {
	opts := &slog.HandlerOptions{Level: &l.level, ReplaceAttr: replace}
	if f == JSON {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// cleanAttr cleans the value of one attribute.
func cleanAttr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(cleanText(a.Value.String()))
	case slog.KindAny:
		switch x := a.Value.Any().(type) {
		case slog.Level, nil:
		case []string:
			list := make([]string, min(len(x), maxList))
			for i := range list {
				list[i] = cleanText(x[i])
			}
			a.Value = slog.AnyValue(list)
		default: // errors, addresses and other values with a text
			a.Value = slog.StringValue(cleanText(fmt.Sprint(x)))
		}
	}
	return a
}

// cleanUntimed is cleanAttr for a log that adds the time itself.
func cleanUntimed(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return cleanAttr(groups, a)
}

// cleanText limits the length of s and replaces characters that JSON does not
// escape and that are not printable, such as C1 controls and bidirectional
// overrides. ASCII controls are kept: both handlers escape them, so that the log
// shows what was received.
func cleanText(s string) string {
	hidden := func(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }
	shown := text.Replace(text.Cut(s, maxValue), hidden, utf8.RuneError)
	if len(s) > maxValue {
		shown = fmt.Sprintf("%s... (%d bytes)", shown, len(s))
	}
	return shown
}
