package process

import (
	"os"
	"strings"
	"time"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// Privileges belong to threads. Package psx changes those of all threads, also in
// a build with cgo.

// setNoNewPrivileges sets no_new_privs: a program that this process starts gains
// nothing from a set-user-ID bit.
func setNoNewPrivileges() error {
	return prctl(unix.PR_SET_NO_NEW_PRIVS, 1)
}

// emptyBoundingSet removes all capabilities from the bounding set, which only root
// can do. The first number that the kernel does not know ends the list.
func emptyBoundingSet() error {
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

// DropCapabilities gives up for good the capabilities that an unprivileged process
// was started with, such as CAP_NET_BIND_SERVICE.
func DropCapabilities() error {
	if err := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil && err != unix.EINVAL { // before Linux 4.3
		return err
	}
	if err := listThreads(); err != nil {
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

// prctl acts on all threads. The arguments that are left out are zero.
func prctl(option, arg uintptr) error {
	if err := listThreads(); err != nil {
		return err
	}
	_, _, errno := psx.Syscall6(unix.SYS_PRCTL, option, arg, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// monotonic returns the time of the clock by which systemd orders reloads.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return time.Duration(now.Nano())
}

// What the process may do with a path. No rule allows it to execute files or to
// make links, sockets or devices. Only in the spool may it make folders and move
// files from one folder to another.
const (
	readAccess  = ll.AccessFSReadFile | ll.AccessFSReadDir
	writeAccess = readAccess | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSRemoveFile
	treeAccess  = writeAccess | ll.AccessFSMakeDir | ll.AccessFSRefer
	fileAccess  = ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate // what applies to a file
)

// DiskSpace returns the space of the file system of a folder.
func DiskSpace(dir string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Space{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	block := int64(st.Bsize)
	return Space{Total: int64(st.Blocks) * block, Free: int64(st.Bavail) * block, InMemory: st.Type == unix.TMPFS_MAGIC}, nil
}

// landlockVersion returns the version of Landlock in the kernel; 0 is none.
func landlockVersion() int {
	version, err := ll.LandlockGetABIVersion()
	if err != nil || version < 1 {
		return 0
	}
	return version
}

// restrict applies s to all threads, as far as the kernel can.
//
// Landlock after version 8 can restrict Unix sockets and UDP, too. That is not used:
// these carry the requests to stores, to DNS servers and to the system log.
func (s *Sandbox) restrict() error {
	config := landlock.V8
	if strings.HasPrefix(os.Getenv("NOTIFY_SOCKET"), "@") {
		config.Scoped &^= ll.ScopeAbstractUnixSocket // the socket of systemd
	}
	var rules []landlock.Rule
	for _, p := range s.reads {
		rules = append(rules, allow(p, readAccess))
	}
	for _, p := range s.writes {
		rules = append(rules, allow(p, writeAccess))
	}
	for _, p := range s.writableTrees {
		rules = append(rules, allow(p, treeAccess))
	}
	for _, p := range s.ports {
		rules = append(rules, landlock.ConnectTCP(p))
	}
	return config.BestEffort().Restrict(rules...)
}

// allow returns the rule for a path. A path that does not exist is no error.
func allow(path string, rights landlock.AccessFSSet) landlock.Rule {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		rights &= fileAccess
	}
	return landlock.PathAccess(rights, path).IgnoreIfMissing()
}
