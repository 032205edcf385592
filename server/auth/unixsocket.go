package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// ExplainDial adds to the error of a connection to a Unix socket what is in the
// way: its path, owner and mode. Other errors come back as they are.
func ExplainDial(err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "dial" || op.Addr == nil || op.Addr.Network() != "unix" {
		return err
	}
	path := op.Addr.String()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; %s is not there: does the server run, and is this its socket?", err, firstMissing(path))
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w; nobody listens there any more (%s): start the server again", err, ownerAndMode(path))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; uid %d is stopped at %s", err, os.Geteuid(), ownerAndMode(firstForbidden(path)))
	}
	return err
}

// firstMissing is the first part of path that does not exist.
func firstMissing(path string) string {
	for missing := path; ; missing = filepath.Dir(missing) {
		dir := filepath.Dir(missing)
		if _, err := os.Lstat(dir); err == nil || dir == missing {
			return missing
		}
	}
}

// firstForbidden is the folder on the way that may not be passed, or path itself.
func firstForbidden(path string) string {
	for i := 1; i < len(path); i++ {
		if path[i] != filepath.Separator {
			continue
		}
		// Only who may pass a folder can look at its ".".
		if _, err := os.Lstat(path[:i] + "/."); err != nil {
			return path[:i]
		}
	}
	return path
}

func ownerAndMode(path string) string {
	info, err := os.Lstat(path)
	if err != nil {
		return path
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return path
	}
	owner, group := strconv.Itoa(int(st.Uid)), strconv.Itoa(int(st.Gid))
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return fmt.Sprintf("%s, which belongs to %s:%s with mode %04o", path, owner, group, info.Mode().Perm())
}
