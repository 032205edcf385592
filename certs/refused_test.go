package certs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/test/kit"
)

var errExplained = errors.New("explained")

// explain gets the error with the path of the file, and its result is returned by OpenFiles
// and Reload, and is in the log.
func TestRefusedAccess(t *testing.T) {
	if os.Geteuid() == 0 {
		asNobody(t) // root may read everything
		return
	}
	log := new(kit.LogBuffer)
	pair := maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, t.TempDir())
	explain := explainRefusal(pair.Key)
	f, err := OpenFiles(config(pair), NewLog(log.Logger()), explain)
	if err != nil {
		t.Fatal(err)
	}
	chmod(t, pair.Key, 0)
	if err := f.Reload(t.Context()); !errors.Is(err, errExplained) {
		t.Errorf("Reload: %v", err)
	}
	if !strings.Contains(log.String(), errExplained.Error()) {
		t.Errorf("log: %s", log)
	}
	if _, err := OpenFiles(config(pair), NewLog(log.Logger()), explain); !errors.Is(err, errExplained) {
		t.Errorf("OpenFiles: %v", err)
	}
	chmod(t, pair.Key, 0o600)
	f.reloadChanged() // only the mode has changed
	if why := f.pairs[0].failure; why != "" {
		t.Errorf("still failing: %s", why)
	}
}

func explainRefusal(name string) func(error) error {
	return func(err error) error {
		var p *fs.PathError
		if errors.Is(err, syscall.EACCES) && errors.As(err, &p) && p.Path == name {
			return errors.Join(err, errExplained)
		}
		return err
	}
}

func chmod(t *testing.T, name string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// asNobody runs the calling test again as an unprivileged user.
func asNobody(t *testing.T) {
	const nobody = 65534
	folder, err := os.MkdirTemp("", "certs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	chmod(t, folder, 0o777|fs.ModeSticky)
	program := filepath.Join(folder, "certs.test")
	copyProgram(t, program)
	cmd := exec.Command(program, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir = folder
	cmd.Env = []string{"TMPDIR=" + folder}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

// copyProgram copies this test program to a file that every user may execute.
func copyProgram(t *testing.T, name string) {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, self)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}
