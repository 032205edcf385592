package pam

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func listen(path string, mode fs.FileMode) (net.Listener, error) {
	return Listen(SocketConfig{Path: path, Mode: mode, GID: os.Getegid(), Log: quiet()})
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "mux")
	l, err := listen(path, 0o620)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o620 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if others, _ := os.ReadDir(filepath.Dir(path)); len(others) != 1 {
		t.Errorf("besides the socket there are %v", others)
	}
	if _, err := listen(path, 0o600); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second helper: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

// A socket from before a crash is replaced; what is no socket is not touched.
func TestListenInPlaceOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mux")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err := listen(path, 0o600)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	// Somebody else takes the name meanwhile: it is not ours to remove.
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("precious"), 0o600), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path, 0o600); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if text, err := os.ReadFile(path); string(text) != "precious" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestListenInOpenFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(filepath.Join(dir, "mux"), 0o600); err == nil || !strings.Contains(err.Error(), "written by everybody") {
		t.Errorf("%v", err)
	}
}
