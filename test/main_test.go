package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// program builds postern once for all tests, at the first one that needs it:
// the one with the race detector to find mistakes, the plain one to measure.
var program, plainProgram = builder("postern-race", "-race"), builder("postern")

// binaries is the folder of what builder has built; TestMain removes it.
var binaries = filepath.Join(os.TempDir(), fmt.Sprintf("postern-test-bin-%d", os.Getpid()))

func TestMain(m *testing.M) {
	status := m.Run()
	os.RemoveAll(binaries)
	os.Exit(status)
}

func builder(name string, flags ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		file := filepath.Join(binaries, name)
		args := append(append([]string{"build", "-buildvcs=false", "-o", file}, flags...), "postern/cmd/postern")
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %q: %w\n%s", args, err, out)
		}
		// postern runs as a user who has to get there.
		return file, os.Chmod(binaries, 0o755)
	})
}
