package fault

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// storageFaults make the staging folder of a running server unusable, and usable again.
var storageFaults = []struct {
	name    string
	size    int // of the message that does not fit
	take    func(t *testing.T, s *server, stage string)
	restore func(t *testing.T, s *server, stage string)
}{
	{"full disk", mebibyte, fillDisk, emptyDisk},
	{"limit of file sizes", mebibyte,
		func(t *testing.T, s *server, _ string) { s.limit(t, "--fsize=262144:") },
		func(t *testing.T, s *server, _ string) { s.limit(t, "--fsize=unlimited:") }},
	{"not writable", mebibyte,
		func(t *testing.T, _ *server, stage string) { chmod(t, stage, 0o500) },
		func(t *testing.T, _ *server, stage string) { chmod(t, stage, 0o700) }},
	{"missing", mebibyte,
		func(t *testing.T, _ *server, stage string) { rename(t, stage, stage+".away") },
		func(t *testing.T, _ *server, stage string) { rename(t, stage+".away", stage) }},
}

// A message that does not fit into memory cannot be staged and gets 452 4.3.1; the
// session continues. Small messages need no file. When the folder is usable again,
// everything works.
func TestStagingFolder(t *testing.T) {
	t.Parallel()
	for _, f := range storageFaults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			stage := folder(t)
			if f.name == "full disk" {
				kit.SmallDisk(t, stage, 2048)
			}
			hop := relaytest.New(t, relaytest.Options{})
			s := startServer(t, hop.URL(), map[string]string{"server": "stage_dir = \"" + stage + "\"\n"})
			c, err := s.login("alice")
			kit.Must(t, err)
			defer c.Close()
			book := newLedger()
			want := func(code int, mark string, size int) {
				t.Helper()
				r, err := book.submit(c, mark, "alice", size)
				if err != nil || r.Code != code || code == 452 && !strings.HasPrefix(r.Text, "4.3.1 ") {
					t.Errorf("%s: got %v, %v, want %d", mark, r, err, code)
				}
			}
			want(250, "before", mebibyte)
			f.take(t, s, stage)
			want(452, "large", f.size)
			want(250, "small", 0)
			want(452, "large", f.size)
			f.restore(t, s, stage)
			want(250, "large", f.size)
			book.settle(t, hop, 0)
		})
	}
}

func fillDisk(t *testing.T, _ *server, stage string) {
	t.Helper()
	f, err := os.Create(filepath.Join(stage, "filler"))
	kit.Must(t, err)
	defer f.Close()
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

func emptyDisk(t *testing.T, _ *server, stage string) {
	t.Helper()
	kit.Must(t, os.Remove(filepath.Join(stage, "filler")))
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	kit.Must(t, os.Chmod(name, mode))
}
