// Package process is postern as a process of the operating system: its exit
// status and signals, the unprivileged user that it becomes, systemd, the sandbox,
// memory, and files and ports that this user cannot use.
//
// It does not know the configuration.
package process

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"postern/internal/fileperm"
)

// The exit statuses, numbered as in sysexits.h and as in Postfix's own commands.
// A service manager can treat them differently: with RestartPreventExitStatus=78
// systemd does not restart a server whose configuration is wrong.
const (
	ExitOK       = 0
	ExitFailure  = 1  // the result is negative, or the command failed
	ExitUsage    = 64 // EX_USAGE: the command line is wrong
	ExitTempFail = 75 // EX_TEMPFAIL: there is no result at present; try again later
	ExitConfig   = 78 // EX_CONFIG: the configuration is wrong
)

// A statusError is an error with an exit status. Its text is empty if the command
// has printed the reason already.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// WithStatus returns err with an exit status, and nil for nil.
func WithStatus(status int, err error) error {
	if err == nil {
		return nil
	}
	return &statusError{status, err}
}

// StatusOnly returns an error that ends the command with a status and without a message.
func StatusOnly(status int) error { return &statusError{status: status} }

// Status returns the exit status of a command that returned err.
func Status(err error) int {
	if err == nil {
		return ExitOK
	}
	var s *statusError
	if errors.As(err, &s) {
		return s.status
	}
	return ExitFailure
}

// FirstInContainer reports whether this is the first process of an application container, so that
// the network is that of the container.
func FirstInContainer() bool { return os.Getpid() == 1 && fileperm.InContainer() }

// CatchSignals returns the channel for SIGHUP, SIGTERM and SIGINT. A server calls
// it before anything else, because an early SIGHUP would end the process. It also
// ignores SIGPIPE, which would end the process when the reader of its log ends.
func CatchSignals() chan os.Signal {
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	return signals
}

// RaiseFileLimit raises RLIMIT_NOFILE to its hard limit and returns that limit. An
// idle client uses one descriptor, an active one up to three.
func RaiseFileLimit() (uint64, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	l.Cur = l.Max
	return uint64(l.Max), syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l) // Max is signed on the BSDs
}

// Space is the space of a file system, in bytes.
type Space struct {
	Total    int64
	Free     int64 // for processes without privileges
	InMemory bool  // a tmpfs
}
