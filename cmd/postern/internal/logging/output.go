package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"strings"
	"syscall"
)

// A severityHandler passes each record to the handler for its severity.
type severityHandler struct{ debug, info, warn, err slog.Handler }

func (h *severityHandler) of(l slog.Level) slog.Handler {
	switch {
	case l >= slog.LevelError:
		return h.err
	case l >= slog.LevelWarn:
		return h.warn
	case l >= slog.LevelInfo:
		return h.info
	}
	return h.debug
}

func (h *severityHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.of(l).Enabled(ctx, l)
}

func (h *severityHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.of(r.Level).Handle(ctx, r)
}

func (h *severityHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(one slog.Handler) slog.Handler { return one.WithAttrs(attrs) })
}

func (h *severityHandler) WithGroup(name string) slog.Handler {
	return h.each(func(one slog.Handler) slog.Handler { return one.WithGroup(name) })
}

func (h *severityHandler) each(f func(slog.Handler) slog.Handler) slog.Handler {
	return &severityHandler{debug: f(h.debug), info: f(h.info), warn: f(h.warn), err: f(h.err)}
}

// A syslogWriter writes lines of one severity to the system log. syslog.Writer
// reconnects after a restart of the daemon; a line that it cannot deliver is
// written to fallback.
type syslogWriter struct {
	log      *syslog.Writer
	severity syslog.Priority
	fallback io.Writer
}

func (w *syslogWriter) Write(line []byte) (int, error) {
	text := strings.TrimSuffix(string(line), "\n")
	if err := w.send(text); err != nil {
		return w.fallback.Write(line)
	}
	return len(line), nil
}

func (w *syslogWriter) send(text string) error {
	switch w.severity {
	case syslog.LOG_ERR:
		return w.log.Err(text)
	case syslog.LOG_WARNING:
		return w.log.Warning(text)
	case syslog.LOG_INFO:
		return w.log.Info(text)
	}
	return w.log.Debug(text)
}

// A journalWriter writes lines of one severity to the systemd journal, with the
// severity as a prefix (sd-daemon(3)).
type journalWriter struct {
	journal  io.Writer
	severity syslog.Priority
}

func (w *journalWriter) Write(line []byte) (int, error) {
	prefixed := fmt.Appendf(nil, "<%d>%s", w.severity, line)
	if _, err := w.journal.Write(prefixed); err != nil {
		return 0, err
	}
	return len(line), nil
}

// isJournal reports whether systemd has connected w to the journal:
// JOURNAL_STREAM holds its device and inode (systemd.exec(5)).
func isJournal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
