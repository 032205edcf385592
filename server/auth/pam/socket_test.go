package pam

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/test/kit"
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
		t.Errorf("the socket still exists: %v", err)
	}
}

// A stale socket is replaced; another file is not.
func TestListenInPlaceOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mux")
	kit.StaleSocket(t, path, 0o755)
	l, err := listen(path, 0o600)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	// Close does not remove a file that has replaced the socket.
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("precious"), 0o600), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path, 0o600); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file: %v", err)
	}
	if text, err := os.ReadFile(path); string(text) != "precious" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestListenInOpenFolder(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		folder string
		mode   fs.FileMode
		text   string // of the error
	}{
		{dir, 0o777, "written by others"},
		{dir, 0o775, "written by others"},
		{top, 0o775, "written by others"}, // so dir could be replaced
		{dir, 0o777 | fs.ModeSticky, ""},
	} {
		if err := os.Chmod(tt.folder, tt.mode); err != nil {
			t.Fatal(err)
		}
		wantListen(t, filepath.Join(dir, "mux"), tt.text)
		if err := os.Chmod(tt.folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(top, 65534, -1); err != nil {
		t.Fatal(err)
	}
	wantListen(t, filepath.Join(dir, "mux"), "belongs to uid 65534")
}

// wantListen listens, and expects an error with text unless text is empty.
func wantListen(t *testing.T, path, text string) {
	t.Helper()
	l, err := listen(path, 0o600)
	switch {
	case err == nil:
		l.Close()
		if text != "" {
			t.Errorf("no error, want %q", text)
		}
	case text == "" || !strings.Contains(err.Error(), text):
		t.Errorf("%v, want %q", err, text)
	}
}
