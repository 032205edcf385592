package pam

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// peerUID returns the user id of the process at the other end, at the time when it
// connected.
func peerUID(conn net.Conn) (int, error) {
	uid := -1
	err := control(conn, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			uid = int(cred.Uid)
		}
		return err
	})
	return uid, err
}

// keptCapabilities are the capabilities of root that PAM modules use: files of other users
// (faillock, shadow, home directories), changing the user (pam_exec, NSS), and the audit
// log. docs/systemd/postern-pam-helper.service has the same list.
var keptCapabilities = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID,
	unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_IPC_LOCK, unix.CAP_AUDIT_WRITE,
}

// startConfined starts a child that has no other capabilities, since root has only those of
// the bounding set. The set belongs to a thread, which is not used again. no_new_privs is
// not set, since pam_unix may need unix_chkpwd, which has more rights than its caller under
// SELinux.
func startConfined(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for c := uintptr(0); ; c++ {
			if slices.Contains(keptCapabilities, c) {
				continue
			}
			// EINVAL is the end of the list. EPERM is the answer for a process
			// without root, which has no capabilities to drop.
			if unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) != nil {
				break
			}
		}
		started <- cmd.Start()
	}()
	return <-started
}

// descendants returns the children of pid, their children, and so on.
func descendants(pid int) []int {
	var found []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is valid
	for _, list := range lists {
		text, _ := os.ReadFile(list) // empty if the thread has ended
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				found = append(append(found, child), descendants(child)...)
			}
		}
	}
	return found
}
