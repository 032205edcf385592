package pam

import (
	"os/exec"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// keptCapabilities are those parts of root that PAM modules use: files of other
// users (faillock, shadow, a home), becoming a user (pam_exec, NSS), the audit
// log. docs/systemd/postern-pam-helper.service has the same list.
var keptCapabilities = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID,
	unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_IPC_LOCK, unix.CAP_AUDIT_WRITE,
}

// startConfined starts a child that has no other capability, for root is what
// the bounding set leaves it. The set belongs to a thread: this one is given
// up afterwards. no_new_privs is left alone, since pam_unix may need its
// unix_chkpwd, which under SELinux is more than who calls it.
func startConfined(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for c := uintptr(0); ; c++ {
			if slices.Contains(keptCapabilities, c) {
				continue
			}
			// EINVAL is the end of the list, EPERM somebody who is not root
			// and has nothing to give up.
			if unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) != nil {
				break
			}
		}
		started <- cmd.Start()
	}()
	return <-started
}
