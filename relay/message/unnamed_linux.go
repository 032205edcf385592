package message

import (
	"os"

	"golang.org/x/sys/unix"
)

// openUnnamed makes a file in dir that never had a name, where the file system
// can do that. O_EXCL keeps it from ever being given one.
func openUnnamed(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE|unix.O_EXCL, 0o600)
	if err != nil {
		return createUnlinked(dir)
	}
	return f, nil
}
