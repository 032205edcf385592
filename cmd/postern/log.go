package main

import (
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
)

// A logger is the log of the process. Its level can be changed under way; its
// format and its destination stay.
type logger struct {
	*slog.Logger
	level  *slog.LevelVar
	syslog *syslog.Writer // or nil
}

// newLogger opens the log that cfg asks for. What the system log does not take
// goes to stderr as well.
func newLogger(cfg logConfig, stderr io.Writer) (*logger, error) {
	l := &logger{level: new(slog.LevelVar)}
	l.setLevel(cfg.Level)
	h, err := l.open(cfg, stderr)
	if err != nil {
		return nil, err
	}
	l.Logger = slog.New(h)
	return l, nil
}

// setLevel changes the level for all lines from now on.
func (l *logger) setLevel(level logLevel) { l.level.Set(slog.Level(level)) }

// Close ends the connection to the system log.
func (l *logger) Close() error {
	if l.syslog == nil {
		return nil
	}
	return l.syslog.Close()
}

func (l *logger) open(cfg logConfig, stderr io.Writer) (slog.Handler, error) {
	if cfg.Destination == toSyslog {
		w, err := syslog.New(syslog.LOG_MAIL|syslog.LOG_INFO, cfg.SyslogName)
		if err != nil {
			return nil, fmt.Errorf("the system log does not answer (%w); start a syslog daemon, "+
				`or write destination = "stderr" in [log]`, err)
		}
		l.syslog = w
		return l.toSyslog(cfg.Format, w, stderr), nil
	}
	if isJournal(stderr) {
		return l.bySeverity(cfg.Format, func(s syslog.Priority) io.Writer { return &journalWriter{stderr, s} }), nil
	}
	return l.handler(cfg.Format, stderr, cleanAttr), nil
}

func (l *logger) toSyslog(f logFormat, w *syslog.Writer, fallback io.Writer) slog.Handler {
	return l.bySeverity(f, func(s syslog.Priority) io.Writer { return &syslogWriter{w, s, fallback} })
}

// bySeverity makes a handler whose lines take their severity along, and no
// time, since both logs have one of their own.
func (l *logger) bySeverity(f logFormat, to func(syslog.Priority) io.Writer) slog.Handler {
	line := func(s syslog.Priority) slog.Handler { return l.handler(f, to(s), cleanUntimed) }
	return &severityHandler{
		debug: line(syslog.LOG_DEBUG),
		info:  line(syslog.LOG_INFO),
		warn:  line(syslog.LOG_WARNING),
		err:   line(syslog.LOG_ERR),
	}
}

func (l *logger) handler(f logFormat, w io.Writer, replace func([]string, slog.Attr) slog.Attr) slog.Handler {
	opts := &slog.HandlerOptions{Level: l.level, ReplaceAttr: replace}
	if f == jsonFormat {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}
