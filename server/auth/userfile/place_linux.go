package userfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve allocates disk space without a change of the file's size, if the file system can.
func reserve(f *os.File, offset, length int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, offset, length)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return err
	}
	return nil
}

// isMount reports whether path is the root of a mount, as a file that is bound into a container.
func isMount(path string) bool { return has(path, unix.STATX_ATTR_MOUNT_ROOT) }

// isImmutable reports whether chattr(1) protects path.
func isImmutable(path string) bool { return has(path, unix.STATX_ATTR_IMMUTABLE) }

func has(path string, attribute uint64) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st)
	return err == nil && st.Attributes&st.Attributes_mask&attribute != 0
}
