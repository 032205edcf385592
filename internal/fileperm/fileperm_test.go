package fileperm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The way ends where the kernel's would: links are followed, also relative ones
// and those that lead up.
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
		"open/dangling":   filepath.Join(dir, "open"), // which can be passed: nothing is there
		"closed":          filepath.Join(dir, "closed"),
	} {
		b, ok := FindBlocker(filepath.Join(dir, path), Read)
		if b.Path != want || ok != (want != "") {
			t.Errorf("%s: %+v, %v, want %s", path, b, ok, want)
		}
	}
}

func TestBlockerGroup(t *testing.T) {
	const group = 2_000_000_124 // of no name
	for _, tt := range []struct {
		name   string
		b      Blocker
		groups []int
		want   string
	}{
		{"readable by the group", Blocker{Mode: 0o640, GID: group, Need: Read}, nil, "2000000124"},
		{"not by the group", Blocker{Mode: 0o600, GID: group, Need: Read}, nil, ""},
		{"readable, and not to be written", Blocker{Mode: 0o640, GID: group, Need: Write}, nil, ""},
		{"a folder to pass", Blocker{Mode: os.ModeDir | 0o710, GID: group, Need: pass}, nil, "2000000124"},
		{"root's group", Blocker{Mode: 0o640, Need: Read}, nil, ""},
		{"our group", Blocker{Mode: 0o640, GID: group, Need: Read}, []int{1, group}, ""},
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
