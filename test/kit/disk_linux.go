package kit

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// SmallDisk makes dir a file system of size KiB, until the end of the test. That
// takes root with its capabilities; without, the test is skipped.
func SmallDisk(t testing.TB, dir string, size int) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=0777", size)); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}
