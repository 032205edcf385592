package main

import (
	"errors"
	"fmt"
)

// The exit statuses, as sysexits.h numbers them and as Postfix's own commands
// use them. A supervisor may treat them differently: systemd's
// RestartPreventExitStatus=78 spares a broken configuration the restarts.
const (
	exitOK       = 0
	exitFailure  = 1  // the answer is no, or it could not be done
	exitUsage    = 64 // EX_USAGE: the command line is wrong
	exitTempFail = 75 // EX_TEMPFAIL: nobody could tell; ask again later
	exitConfig   = 78 // EX_CONFIG: the configuration is wrong
)

// A statusError is an error with an exit status of its own. An empty text
// means that the command has said everything already.
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

// withStatus gives err an exit status; nil stays nil.
func withStatus(status int, err error) error {
	if err == nil {
		return nil
	}
	return &statusError{status, err}
}

// silently ends the command with a status and without another word.
func silently(status int) error { return &statusError{status: status} }

func usageError(format string, args ...any) error {
	return withStatus(exitUsage, fmt.Errorf(format, args...))
}

// exitStatus finds the status of what a command returned.
func exitStatus(err error) int {
	if err == nil {
		return exitOK
	}
	var s *statusError
	if errors.As(err, &s) {
		return s.status
	}
	return exitFailure
}
