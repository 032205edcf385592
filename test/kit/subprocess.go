package kit

import (
	"os"
	"os/exec"
	"testing"
)

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

// Subprocess returns a command that runs a function in a copy of the test binary,
// for what changes its process for good. env are more variables of its environment.
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

// OpenDir returns a new folder that every user may enter and list, unlike that of
// t.TempDir, whose parents are for the owner only.
func OpenDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-test")
	Must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	Must(t, os.Chmod(dir, 0o755))
	return dir
}

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
