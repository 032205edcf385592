package fileperm

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// ReadSecret reads at most limit bytes of a file that contains a secret: a password or a
// private key. It refuses a file that every user of the machine can read or change, and
// anything but a regular file. Errors name the file and do not repeat its content.
func ReadSecret(path string, limit int64) ([]byte, error) {
	// Without O_NONBLOCK, opening a named pipe would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file; name the regular file that contains the secret", path)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, which gives every user of this machine access to the secret; run chmod o= %s", path, mode, path)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
