package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// forbidNewPrivileges sets no_new_privs on every thread: no program that this
// process may ever start gains anything by a set-user-id bit. A build with cgo
// cannot reach all threads and returns ENOTSUP.
func forbidNewPrivileges() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
