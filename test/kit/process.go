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

// The password of every user, and its hash at the lowest cost of bcrypt, which saves
// time: the tests are not about the hash.
const (
	Password = "correct-horse"
	Hash     = "$2a$04$taimqevPWDCjXXtr.KTyPOMt/Cf5/KeK7.YAi2njRhbQlN/3P2WlO"
)

// Nobody is the UID and GID of postern if the tests run as root.
const Nobody = 65534

// programs is the folder of the programs that Program has built.
var programs = filepath.Join(os.TempDir(), fmt.Sprintf("postern-programs-%d", os.Getpid()))

// Program returns a function that builds postern with these flags when it is first
// called, and returns the file.
func Program(name string, flags ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		file := filepath.Join(programs, name)
		args := append(append([]string{"build", "-buildvcs=false", "-o", file}, flags...), "postern/cmd/postern")
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %q: %w\n%s", args, err, out)
		}
		return file, os.Chmod(programs, 0o755) // for Nobody
	})
}

// RemovePrograms removes what Program has built. TestMain calls it at its end.
func RemovePrograms() { os.RemoveAll(programs) }

// Command returns a command that runs postern, as Nobody if the tests run as root.
func Command(file string, args ...string) *exec.Cmd {
	cmd := exec.Command(file, args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=20") // instead of a second at each exit
	cmd.SysProcAttr = AsNobody()
	return cmd
}

// AsNobody makes a command run as the user of Command.
func AsNobody() *syscall.SysProcAttr {
	if os.Geteuid() != 0 {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: Nobody, Gid: Nobody}}
}

// Own makes the user of Command the owner of files.
func Own(t testing.TB, files ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	for _, file := range files {
		Must(t, os.Chown(file, Nobody, Nobody))
	}
}

// InspectLog reports what the log of postern must never contain.
func InspectLog(t testing.TB, log string) {
	t.Helper()
	for _, sign := range []string{"WARNING: DATA RACE", "panic:", "panic=", "fatal error:", "internal error", Password} {
		if strings.Contains(log, sign) {
			t.Errorf("the log of postern contains %q", sign)
		}
	}
}

// subprocess names the function that a copy of the test binary runs.
const subprocess = "POSTERN_TEST_SUBPROCESS"

// RunSubprocess runs the function that Subprocess has named and returns its exit
// status. ok is false in a process that Subprocess has not started. TestMain calls
// it first.
func RunSubprocess(functions map[string]func() int) (status int, ok bool) {
	f, ok := functions[os.Getenv(subprocess)]
	if !ok {
		return 0, false
	}
	return f(), true
}

// Subprocess returns a command that runs a function in a copy of the test binary. It
// is for functions that change their process for good. env are more variables of its
// environment.
func Subprocess(name string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), subprocess+"="+name)
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// AsRoot runs a function as Subprocess does and returns its output. The function
// must end with status. The test is skipped unless it runs as root.
func AsRoot(t *testing.T, name string, status int, env ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it drops root privileges")
	}
	cmd := Subprocess(name, env...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != status {
		t.Fatalf("%s: %v, want status %d\n%s", name, err, status, out)
	}
	return string(out)
}
