package userfile

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/test/kit"
)

func TestRenameOverIsNoticed(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	f.later(time.Hour)
	f.expect("alice", "secret", "accepted")
	renameOver(t, f.path, "alice:"+other+"\n")
	f.later(checkInterval)
	f.expect("alice", "secret", "wrong password")
	f.expect("alice", "other", "accepted")
}

func TestSymbolicLinkIsFollowed(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "one"), "alice:"+secret+"\n")
	write(t, filepath.Join(dir, "two"), "alice:"+other+"\n")
	link := filepath.Join(dir, "users")
	if err := os.Symlink("one", link); err != nil {
		t.Fatal(err)
	}
	f, err := open(t, link)
	if err != nil {
		t.Fatal(err)
	}
	f.expect("alice", "secret", "accepted")
	if err := os.Symlink("two", link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	f.later(time.Hour)
	f.expect("alice", "other", "accepted")
}

// The second change has the same size, and may have the same times as the first.
func TestTwoChangesAtOnceAreNoticed(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	write(t, f.path, "alice:"+other+"\n")
	f.later(quietTime + time.Second)
	f.expect("alice", "other", "accepted")
}

func TestUnchangedFileIsNotReadAgain(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	f.later(time.Hour)
	f.expect("alice", "secret", "accepted")
	if !f.state.settled {
		t.Fatal("not settled after an hour")
	}
	before := f.content.Load()
	for range 3 {
		f.later(time.Hour)
		f.expect("alice", "secret", "accepted")
	}
	if f.content.Load() != before || strings.Count(f.log.String(), "user file read") != 1 {
		t.Errorf("read again:\n%s", f.log.String())
	}
}

func TestIncompleteFileIsNotRead(t *testing.T) {
	f := openText(t, "alice:"+secret+"\nbob:"+secret+"\n")
	write(t, f.path, "alice:"+secret+"\n") // in place; bob's line is missing
	_, written, err := readFile(f.path, openChecked)
	if err != nil {
		t.Fatal(err)
	}
	f.clock = written.changed.Add(quietTime / 2)
	f.state.checked = time.Time{}
	f.expect("bob", "secret", "accepted")
	f.later(quietTime)
	f.expect("bob", "secret", "no such user")
}

func TestConstantlyChangedFileIsRead(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	changed := stamp{inode: f.state.stamp.inode, device: f.state.stamp.device}
	start := time.Now()
	for waited := time.Duration(0); waited < maxWait; waited += checkInterval {
		now := start.Add(waited)
		changed.changed = now
		if !f.incomplete(changed, now) {
			t.Fatalf("read after %v", waited)
		}
	}
	now := start.Add(maxWait)
	changed.changed = now
	if f.incomplete(changed, now) {
		t.Errorf("not read after %v", maxWait)
	}
}

func TestMissingFileIsTemporary(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.later(time.Minute)
		f.expect("alice", "secret", "temporary")
		f.expect("alice", "wrong", "temporary")
		f.expect("nobody", "secret", "temporary")
	}
	if n := strings.Count(f.log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log, want one:\n%s", n, f.log.String())
	}
	if err := f.Reload(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Reload: %v", err)
	}
	write(t, f.path, "alice:"+secret+"\n")
	f.later(time.Minute)
	f.expect("alice", "secret", "accepted")
}

func TestReloadReadsAtOnce(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	write(t, f.path, "alice:"+other+"\n")
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.expect("alice", "other", "accepted")
}

func TestManyLoginsWhileTheFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, "alice:"+secret+"\n")
	s, err := New(Config{Path: path}, auth.FoldLower, hash.NewChecker(time.Minute), auth.NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	var start, moved = time.Now(), int64(0)
	var clock sync.Mutex
	s.now = func() time.Time { // every check is due
		clock.Lock()
		defer clock.Unlock()
		moved++
		return start.Add(time.Duration(moved) * checkInterval)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				if _, err := s.VerifyPassword(t.Context(), &auth.Peer{}, "alice", "secret"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 50 {
		renameOver(t, path, fmt.Sprintf("user%d:%s\nalice:%s\n", i, other, secret))
	}
	all.Wait()
}

// A file that every user of the machine can change is not read again, nor one that is no regular
// file. The last good content stays in use, and the log has the reason once.
func TestRefusedFileKeepsTheUsers(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	refused := func(n int, step string) {
		t.Helper()
		for range 2 {
			f.later(time.Minute)
			f.expect("alice", "secret", "accepted")
			f.expect("mallory", "secret", "no such user")
		}
		if err := f.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), step) {
			t.Errorf("Reload: %v, want ...%s", err, step)
		}
		if all := strings.Count(f.log.String(), "last content stays"); all != n {
			t.Errorf("reported %d times, want %d: %s", all, n, f.log.String())
		}
	}
	write(t, f.path, "alice:"+secret+"\nmallory:"+secret+"\n")
	chmod(t, f.path, 0o602)
	refused(1, "chmod o-w "+f.path)
	chmod(t, f.path, 0o600)
	chmod(t, filepath.Dir(f.path), 0o703)
	refused(2, "chmod o-w "+filepath.Dir(f.path))

	text, err := os.ReadFile(f.path)
	kit.Must(t, err)
	kit.Must(t, os.Remove(f.path))
	kit.Must(t, unix.Mkfifo(f.path, 0o600))
	chmod(t, filepath.Dir(f.path), 0o700)
	refused(3, "is not a regular file")

	kit.Must(t, os.Remove(f.path))
	write(t, f.path, string(text))
	f.later(time.Minute)
	f.expect("mallory", "secret", "accepted")
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	kit.Must(t, os.Chmod(path, mode))
}
