package kit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Every user has one password, hashed at bcrypt's lowest cost: what is under test
// is not the hash.
const (
	Password = "correct-horse"
	Hash     = "$2a$04$taimqevPWDCjXXtr.KTyPOMt/Cf5/KeK7.YAi2njRhbQlN/3P2WlO"
)

// Nobody is whom postern runs as where the tests run as root.
const Nobody = 65534

// programs is the folder of what Program has built.
var programs = filepath.Join(os.TempDir(), fmt.Sprintf("postern-programs-%d", os.Getpid()))

// Program returns what builds postern with these flags, once, at the first test
// that needs it, and returns its file.
func Program(name string, flags ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		file := filepath.Join(programs, name)
		args := append(append([]string{"build", "-buildvcs=false", "-o", file}, flags...), "postern/cmd/postern")
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %q: %w\n%s", args, err, out)
		}
		// postern runs as a user who has to get there.
		return file, os.Chmod(programs, 0o755)
	})
}

// RemovePrograms is for the end of TestMain.
func RemovePrograms() { os.RemoveAll(programs) }

// Command is postern as Nobody, where the tests run as root.
func Command(file string, args ...string) *exec.Cmd {
	cmd := exec.Command(file, args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=20") // instead of a second at each exit
	cmd.SysProcAttr = AsNobody()
	return cmd
}

// AsNobody has a command run as the user that postern is.
func AsNobody() *syscall.SysProcAttr {
	if os.Geteuid() != 0 {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: Nobody, Gid: Nobody}}
}

// Own hands files to the user that postern is.
func Own(t testing.TB, files ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	for _, file := range files {
		if err := os.Chown(file, Nobody, Nobody); err != nil {
			t.Fatal(err)
		}
	}
}

// InspectLog finds in the log of postern what never may be there.
func InspectLog(t testing.TB, log string) {
	t.Helper()
	for _, sign := range []string{"WARNING: DATA RACE", "panic:", "panic=", "fatal error:", "internal error", Password} {
		if strings.Contains(log, sign) {
			t.Errorf("the log of postern contains %q", sign)
		}
	}
}
