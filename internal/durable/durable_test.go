package durable

import (
	"os"
	"path/filepath"
	"testing"

	"postern/test/kit"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	kit.Must(t, os.WriteFile(target, []byte("old"), 0o600))
	kit.Must(t, Replace(newFile(t, dir), target, []byte("new")))
	if got, err := os.ReadFile(target); err != nil || string(got) != "new" {
		t.Errorf("%q, %v", got, err)
	}
	wantFiles(t, dir, 1)
}

// After an error the target has its old content, and the new file is gone.
func TestReplaceFails(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "target") // a file cannot replace a folder
	kit.Must(t, os.Mkdir(folder, 0o700))
	if err := Replace(newFile(t, dir), folder, []byte("new")); err == nil {
		t.Error("replaced a folder")
	}
	closed := newFile(t, dir)
	kit.Must(t, closed.Close())
	if err := Replace(closed, filepath.Join(dir, "other"), []byte("new")); err == nil {
		t.Error("wrote into a closed file")
	}
	wantFiles(t, dir, 1)
}

func TestSyncFolder(t *testing.T) {
	dir := t.TempDir()
	kit.Must(t, SyncFolder(dir))
	if err := SyncFolder(filepath.Join(dir, "missing")); err == nil {
		t.Error("synchronized a folder that does not exist")
	}
}

func newFile(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(dir, "new-*")
	kit.Must(t, err)
	return f
}

func wantFiles(t *testing.T, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	kit.Must(t, err)
	if len(entries) != want {
		t.Errorf("%d entries, want %d: %v", len(entries), want, entries)
	}
}
