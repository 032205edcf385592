package fileperm

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/test/kit"
)

// Links are followed as by the kernel, also relative ones and those with "..".
func TestFindBlocker(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"open", "closed"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "closed", "key")
	if err := os.WriteFile(file, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"absolute": file, "relative": "../closed/key", "folder": "../closed", "circle": "circle", "dangling": "missing",
	} {
		if err := os.Symlink(target, filepath.Join(dir, "open", link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"closed/key":      file,
		"open/absolute":   file,
		"open/relative":   file,
		"open/folder/key": file,
		"open/circle":     "",
		"open/dangling":   filepath.Join(dir, "open"), // can be entered: the target is missing
		"closed":          filepath.Join(dir, "closed"),
	} {
		b, ok := FindBlocker(filepath.Join(dir, path), Read)
		if b.Path != want || ok != (want != "") {
			t.Errorf("%s: %+v, %v, want %s", path, b, ok, want)
		}
	}
}

func TestBlockerGroup(t *testing.T) {
	const group = 2_000_000_124 // without a name
	for _, tt := range []struct {
		name   string
		b      Blocker
		groups []int
		want   string
	}{
		{"readable by the group", Blocker{Mode: 0o640, GID: group, Need: Read}, nil, "2000000124"},
		{"not by the group", Blocker{Mode: 0o600, GID: group, Need: Read}, nil, ""},
		{"readable, and not to be written", Blocker{Mode: 0o640, GID: group, Need: Write}, nil, ""},
		{"a folder to enter", Blocker{Mode: os.ModeDir | 0o710, GID: group, Need: enter}, nil, "2000000124"},
		{"root's group", Blocker{Mode: 0o640, Need: Read}, nil, ""},
		{"group of the process", Blocker{Mode: 0o640, GID: group, Need: Read}, []int{1, group}, ""},
	} {
		if got := tt.b.Group(tt.groups); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestBlockerString(t *testing.T) {
	b := Blocker{Path: "/run/saslauthd", Mode: os.ModeDir | 0o710, UID: 0, GID: 2_000_000_124}
	if got := b.String(); !strings.HasPrefix(got, "/run/saslauthd, which belongs to ") || !strings.HasSuffix(got, ":2000000124 with mode 0710") {
		t.Error(got)
	}
}

func TestExplainDial(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	kit.StaleSocket(t, stale, 0o640)
	for path, text := range map[string]string{
		filepath.Join(dir, "gone", "socket"): filepath.Join(dir, "gone") + " does not exist",
		stale:                                "mode 0640",
	} {
		_, err := net.Dial("unix", path)
		if got := ExplainDial(err); !strings.Contains(got.Error(), text) || !errors.Is(got, err) {
			t.Errorf("%s: %v", path, got)
		}
	}
	forbidden := &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: stale, Net: "unix"}, Err: syscall.EACCES}
	if got := ExplainDial(forbidden); !strings.Contains(got.Error(), "mode 0640") {
		t.Errorf("forbidden: %v", got)
	}
	other := errors.New("anything else")
	if got := ExplainDial(other); got != other {
		t.Errorf("%v", got)
	}
}
