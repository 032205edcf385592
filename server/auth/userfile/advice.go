package userfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"postern/internal/fileperm"
)

// errMounted is the reason why a file that is a mount is not replaced.
var errMounted = errors.New("the file is mounted by itself")

// A replaceError is an error before anything was written.
type replaceError struct{ err error }

func (e *replaceError) Error() string { return e.err.Error() }
func (e *replaceError) Unwrap() error { return e.err }

// obstacle returns why the file can only be changed in place, or "" if err means something else.
func obstacle(target string, err error) string {
	_, before := errors.AsType[*replaceError](err)
	_, op := errors.AsType[*fs.PathError](err)
	switch {
	case errors.Is(err, errMounted), errors.Is(err, unix.EBUSY):
		return target + " is mounted by itself, so it cannot be replaced and is changed in place; mount its folder instead: " +
			"a program outside that replaces the file would not change it here"
	case !before && !op:
		return ""
	case errors.Is(err, unix.EROFS):
		return "the folder of " + target + " is read-only, so the file cannot be replaced and is changed in place"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("user %s may not replace %s, so it is changed in place", fileperm.UserName(os.Geteuid()), target)
	}
	return ""
}

// explainWrite adds the next step to an error.
func explainWrite(target string, err error) error {
	dir, me := filepath.Dir(target), fileperm.UserName(os.Geteuid())
	info, statErr := os.Stat(target)
	switch {
	case err == nil:
		return nil
	case statErr == nil && info.IsDir():
		return fmt.Errorf("%w; Docker makes a folder if the file to mount does not exist: remove the folder, create the file on the host, and start "+
			"the container again", err)
	case errors.Is(err, unix.EROFS) || errors.Is(err, errMounted) && unix.Access(target, unix.W_OK) == unix.EROFS:
		return fmt.Errorf("%s is mounted read-only; change the file on the host, or mount it without \":ro\": %w", target, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w; free some space and run this again", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; create the folder first: install -d -m 0750 %s", err, dir)
	case !errors.Is(err, fs.ErrPermission) && !errors.Is(err, errMounted):
		return err
	case isImmutable(target):
		return fmt.Errorf("%s is immutable; run as root: chattr -i %[1]s: %w", target, err)
	}
	if b, ok := fileperm.FindBlocker(target, fileperm.Write); ok && statErr == nil && unix.Access(dir, unix.X_OK) == nil {
		return fmt.Errorf("user %s may write neither to %s nor to its folder; run this as user %s, to whom the file belongs: %w",
			me, b, fileperm.UserName(b.UID), err)
	}
	if b, ok := fileperm.FindBlocker(dir, fileperm.Write); ok {
		return fmt.Errorf("user %s may not write to the folder %s; run this as user %s, to whom the folder belongs: %w", me, b, fileperm.UserName(b.UID), err)
	}
	return err
}
