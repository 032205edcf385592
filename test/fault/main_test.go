package fault

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"postern/test/kit"
)

// program builds postern once for all drills.
var program = sync.OnceValues(build)

// binaries is the folder of what build has built; TestMain removes it.
var binaries = filepath.Join(os.TempDir(), fmt.Sprintf("postern-fault-%d", os.Getpid()))

func TestMain(m *testing.M) {
	kit.AtOnce(8)
	status := m.Run()
	os.RemoveAll(binaries)
	os.Exit(status)
}

func build() (string, error) {
	file := filepath.Join(binaries, "postern")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-race", "-o", file, "postern/cmd/postern").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return file, os.Chmod(binaries, 0o755) // for the user that postern runs as
}
