// Package fileperm says what keeps this process from a file or a Unix socket: which
// folder on the way, whose it is, and with what mode. An administrator wants to
// read that, and not "permission denied".
//
// What to do about it is for those to say who know what the file is for.
package fileperm

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The permissions that may be missing, as modes have them for everybody.
const (
	Read  fs.FileMode = 0o4
	Write fs.FileMode = 0o2 // to connect to a socket, too
	pass  fs.FileMode = 0o1 // through a folder
)

// A Blocker is the file that cannot be opened, or the folder on the way to it that
// cannot be passed.
type Blocker struct {
	Path     string
	Mode     fs.FileMode
	UID, GID int
	Need     fs.FileMode // what is missing: of a folder the right to pass it
}

// maxLinks is how many symbolic links Linux follows before it gives up.
const maxLinks = 40

// FindBlocker walks to path as the kernel does, link by link, until it may not go
// on. need is what is wanted at the end. It looks with the eyes of the process.
func FindBlocker(path string, need fs.FileMode) (Blocker, bool) {
	done, rest := "/", split(path)
	for links := 0; len(rest) > 0; {
		next := filepath.Join(done, rest[0])
		info, err := os.Lstat(next)
		if err != nil {
			return blockerAt(done, need)
		}
		rest = rest[1:]
		if info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return Blocker{}, false
		}
		if filepath.IsAbs(target) {
			done = "/"
		}
		rest = append(split(target), rest...)
	}
	return blockerAt(done, need)
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == filepath.Separator })
}

func blockerAt(path string, need fs.FileMode) (Blocker, bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return Blocker{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Blocker{}, false
	}
	if info.IsDir() {
		need = pass
	}
	return Blocker{Path: path, Mode: info.Mode(), UID: int(st.Uid), GID: int(st.Gid), Need: need}, true
}

// String is the path with its owner and mode.
func (b Blocker) String() string {
	return fmt.Sprintf("%s, which belongs to %s:%s with mode %04o", b.Path, UserName(b.UID), GroupName(b.GID), b.Mode.Perm())
}

// Group names the group that who is in it has the right by; a process with the
// groups given is not. It is empty if there is none, or if it is root's.
func (b Blocker) Group(groups []int) string {
	if b.Mode.Perm()&(b.Need<<3) == 0 || b.GID == 0 || slices.Contains(groups, b.GID) {
		return ""
	}
	return GroupName(b.GID)
}

// UserName is the name of a user, or the number of one who has none (a container
// with an arbitrary uid).
func UserName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// GroupName is the name of a group, or the number of one that has none.
func GroupName(gid int) string {
	id := strconv.Itoa(gid)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}
