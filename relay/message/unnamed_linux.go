package message

import (
	"os"

	"golang.org/x/sys/unix"
)

// openUnnamed creates a file in dir that never has a name, if the file system can do that.
// With O_EXCL it cannot be given one later.
func openUnnamed(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE|unix.O_EXCL, 0o600)
	if err != nil {
		return createUnlinked(dir)
	}
	return f, nil
}
