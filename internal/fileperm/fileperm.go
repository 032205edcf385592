// Package fileperm checks who else has access to the files of the configuration, and explains
// why this process has none.
//
//	open      opens and reads files that pass the check
//	check     the rules: who can change a file, and who can read a secret
//	host      what the rules depend on: the user, a container, the file system
//	path      follows a path and its links
//	fileperm  explains "permission denied": the file or the folder that causes it
//
// The rules are about the owner and the mode of the file, of each folder above it, and of each
// link that leads to it. Access control lists are left out, except that the bits of the group
// are their mask (acl(5)).
package fileperm

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// The permissions that may be missing, as the bits of a mode for others. The next step depends
// on the purpose of the file, so the caller of FindBlocker adds it.
const (
	Read  fs.FileMode = 0o4
	Write fs.FileMode = 0o2 // needed to connect to a socket, too
	enter fs.FileMode = 0o1 // a folder
)

// A Blocker is the file that cannot be opened, or the folder of its path that cannot be
// entered.
type Blocker struct {
	Path     string
	Mode     fs.FileMode
	UID, GID int
	Need     fs.FileMode // the missing permission; of a folder that to enter it
}

// FindBlocker follows path and its links as the kernel does, until this process has no
// access. need is the permission needed at the end.
func FindBlocker(path string, need fs.FileMode) (Blocker, bool) {
	t := follow(path)
	if errors.Is(t.err, errLoop) {
		return Blocker{}, false
	}
	return blockerAt(t.at, need)
}

func blockerAt(path string, need fs.FileMode) (Blocker, bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return Blocker{}, false
	}
	e, ok := entryOf(path, info)
	if !ok {
		return Blocker{}, false
	}
	if info.IsDir() {
		need = enter
	}
	return Blocker{Path: path, Mode: e.mode, UID: e.uid, GID: e.gid, Need: need}, true
}

// String returns the path with its owner and mode.
func (b Blocker) String() string {
	return fmt.Sprintf("%s, which belongs to %s:%s with mode %04o", b.Path, UserName(b.UID), GroupName(b.GID), b.Mode.Perm())
}

// Group returns the name of the group whose members have the permission. It is empty if the
// group does not have it, if the group is root's, or if it is one of groups.
func (b Blocker) Group(groups []int) string {
	if b.Mode.Perm()&(b.Need<<3) == 0 || b.GID == 0 || slices.Contains(groups, b.GID) {
		return ""
	}
	return GroupName(b.GID)
}

// ExplainDial adds the cause to the error of a connection to a Unix socket: the path that is
// missing or not accessible, with its owner and mode. Other errors are returned unchanged.
func ExplainDial(err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "dial" || op.Addr == nil || op.Addr.Network() != "unix" {
		return err
	}
	path := op.Addr.String()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; %s does not exist: start the server, or correct the path of its socket", err, FirstMissing(path))
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w; no process listens there (%s): start the server again", err, at(path))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; uid %d has no access to %s", err, os.Geteuid(), at(path))
	}
	return err
}

// at describes the file or folder that blocks the path of a socket.
func at(path string) string {
	if b, ok := FindBlocker(path, Write); ok {
		return b.String()
	}
	return path
}

// FirstMissing returns the shortest prefix of path that does not exist.
func FirstMissing(path string) string {
	for missing := path; ; missing = filepath.Dir(missing) {
		dir := filepath.Dir(missing)
		if _, err := os.Lstat(dir); err == nil || dir == missing {
			return missing
		}
	}
}
