package auth

import "log/slog"

// Events receives everything that the log and the metrics need to know of stores
// outside of a login. The outcome of a login is an event of the session. The methods
// are called by many goroutines at once and must not block. [NewLog] makes one that
// writes the log; docs/log.md lists the events.
type Events interface {
	StorePanicked(store string, err error, stack []byte)

	UserFileRead(path string, users int)
	UserFileLineSkipped(path string, line int, reason string)
	UserFileMoreLinesSkipped(path string, lines int)
	UserFileUnreadable(path string, err error) // logins fail until it can be read
	UserFileRefused(path string, err error)    // its permissions are wrong; the old content is used

	LDAPServerDown(server string, err error)
	LDAPServerUp(server string) // after LDAPServerDown

	DovecotUnavailable(socket string, err error) // the connection could not be made
	DovecotLost(socket string, err error)        // the connection has ended
	DovecotAvailable(socket string)              // after DovecotUnavailable

	PAMHelperEnded(err error) // without having been asked to
}

// An eventLog writes the events of stores: one method and one line for each event.
// docs/log.md lists the lines and their keys, which are stable.
type eventLog struct{ *slog.Logger }

// NewLog returns Events that are written to l.
func NewLog(l *slog.Logger) Events { return eventLog{l} }

func (l eventLog) StorePanicked(store string, err error, stack []byte) {
	l.Error("store panicked; this is a bug, please report it", "store", store, "err", err, "stack", string(stack))
}

func (l eventLog) UserFileRead(path string, users int) {
	l.Info("user file read", "path", path, "users", users)
}

func (l eventLog) UserFileLineSkipped(path string, line int, reason string) {
	l.Warn("user file: line skipped", "path", path, "line", line, "reason", reason)
}

func (l eventLog) UserFileMoreLinesSkipped(path string, lines int) {
	l.Warn("user file: more lines skipped", "path", path, "lines", lines)
}

func (l eventLog) UserFileRefused(path string, err error) {
	l.Error("user file is refused; its last content stays", "path", path, "err", err)
}

func (l eventLog) UserFileUnreadable(path string, err error) {
	l.Error("user file cannot be read, nobody can log in with it", "path", path, "err", err)
}

func (l eventLog) LDAPServerDown(server string, err error) {
	l.Warn("LDAP server does not answer", "server", server, "err", err)
}

func (l eventLog) LDAPServerUp(server string) {
	l.Info("LDAP server answers again", "server", server)
}

func (l eventLog) DovecotUnavailable(socket string, err error) {
	l.Error("Dovecot is not available", "socket", socket, "err", err)
}

func (l eventLog) DovecotLost(socket string, err error) {
	l.Warn("connection to Dovecot lost", "socket", socket, "err", err)
}

func (l eventLog) DovecotAvailable(socket string) {
	l.Info("Dovecot answers again", "socket", socket)
}

func (l eventLog) PAMHelperEnded(err error) {
	l.Error("the PAM helper has ended; nobody can log in with PAM until postern is restarted", "err", err)
}
