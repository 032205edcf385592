package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// Privileges belong to threads. Package psx changes all of them, in a build with
// cgo, too.

// forbidNewPrivileges sets no_new_privs: no program that this process may ever
// start gains anything by a set-user-id bit.
func forbidNewPrivileges() error {
	return prctl(unix.PR_SET_NO_NEW_PRIVS, 1)
}

// forgetCapabilities empties the bounding set, which only root can do. What the
// kernel knows no more of ends the list.
func forgetCapabilities() error {
	for c := uintptr(0); c <= 63; c++ {
		switch err := prctl(unix.PR_CAPBSET_DROP, c); err {
		case nil:
		case unix.EINVAL:
			return nil
		default:
			return err
		}
	}
	return nil
}

// dropCapabilities gives up what a process that is not root may have been
// started with, such as CAP_NET_BIND_SERVICE, for good.
func dropCapabilities() error {
	if err := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil && err != unix.EINVAL { // before Linux 4.3
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// prctl is for all threads; the arguments that are left out are zero.
func prctl(option, arg uintptr) error {
	_, _, errno := psx.Syscall6(unix.SYS_PRCTL, option, arg, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
