package pam

import (
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// CloseInherited closes the descriptors from first on that this process was
// started with. Whoever has started it may have left some open: a listening
// socket, a lock, a terminal. They are nothing to root's helper, and still less to
// a module. What the process has opened by itself stays: unlike anything that
// outlives an exec, it is close-on-exec. It is called before anything is started.
func CloseInherited(first int) error {
	open, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not Linux, where no helper can start its children either
	}
	if err != nil {
		return err
	}
	for _, entry := range open {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd < first {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue // the folder itself, for one, which is closed by now
		}
		_ = unix.Close(fd) // whose it was may know what that error means
	}
	return nil
}
