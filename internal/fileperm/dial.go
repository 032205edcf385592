package fileperm

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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
		return fmt.Errorf("%w; nobody listens there any more (%s): start the server again", err, at(path))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; uid %d is stopped at %s", err, os.Geteuid(), at(path))
	}
	return err
}

// at is where the way to a socket ends.
func at(path string) string {
	if b, ok := FindBlocker(path, Write); ok {
		return b.String()
	}
	return path
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
