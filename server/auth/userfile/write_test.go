package userfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSetPassword(t *testing.T) {
	tests := []struct{ name, before, after string }{
		{"empty file", "", "alice:" + other + "\n"},
		{"new user", "bob:" + secret + "\n", "bob:" + secret + "\nalice:" + other + "\n"},
		{"no end of line", "bob:" + secret, "bob:" + secret + "\nalice:" + other + "\n"},
		{"change", "# users\nalice:" + secret + "\nbob:" + secret + "\n", "# users\nalice:" + other + "\nbob:" + secret + "\n"},
		{"further fields", "alice:" + secret + ":1000:1000::/home\n", "alice:" + other + ":1000:1000::/home\n"},
		{"end of line of Windows", "alice:" + secret + "\r\nbob:!\r\n", "alice:" + other + "\r\nbob:!\r\n"},
		{"change without end of line", "alice:" + secret, "alice:" + other},
		{"twice", "alice:" + secret + "\nalice:" + secret + "\n", "alice:" + other + "\nalice:" + secret + "\n"},
		{"bad hash", "alice:nonsense\n", "alice:" + other + "\n"},
		{"other bad lines", "nonsense\nalicea:x\n", "nonsense\nalicea:x\nalice:" + other + "\n"},
		{"byte order mark", "\ufeffalice:" + secret + "\n", "alice:" + other + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "users")
			write(t, path, tt.before)
			if err := SetPassword(path, "alice", other, nil); err != nil {
				t.Fatal(err)
			}
			if got := read(t, path); got != tt.after {
				t.Errorf("got\n%q, want\n%q", got, tt.after)
			}
			f, err := open(t, path)
			if err != nil {
				t.Fatal(err)
			}
			f.expect("alice", "other", "accepted")
		})
	}
}

func TestSetPasswordCreatesFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	if err := SetPassword(path, "alice", secret, nil); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestSetPasswordKeepsModeAndOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, "")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 1234, 4321); err != nil {
			t.Fatal(err)
		}
	}
	before := statOf(t, path)
	if err := SetPassword(path, "alice", secret, nil); err != nil {
		t.Fatal(err)
	}
	if after := statOf(t, path); after != before {
		t.Errorf("%v became %v", before, after)
	}
}

func TestSetPasswordFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "users")
	write(t, target, "alice:"+secret+"\n")
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	if err := SetPassword(link, "alice", other, nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, target); got != "alice:"+other+"\n" {
		t.Errorf("target is %q", got)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
}

func TestSetPasswordRefuses(t *testing.T) {
	dir := t.TempDir()
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "users")
	tests := []struct{ path, user, stored, why string }{
		{path, "", secret, "empty"},
		{path, "a:b", secret, "colon"},
		{path, "a\nb", secret, "control"},
		{path, "a\x00b", secret, "control"},
		{path, "#a", secret, "comment"},
		{path, " a", secret, "blank"},
		{path, "\xff", secret, "UTF-8"},
		{path, strings.Repeat("x", 1000), secret, "longer"},
		{path, "alice", "secret", "unknown password scheme"},
		{path, "alice", secret + "\nroot:" + secret, "line break"},
		{path, "alice", secret + ":0", "colon"},
		{dangling, "alice", secret, "symbolic link"},
		{filepath.Join(dir, "no", "users"), "alice", secret, "no such file"},
		{dir, "alice", secret, "not a regular file"},
	}
	for _, tt := range tests {
		if err := SetPassword(tt.path, tt.user, tt.stored, nil); err == nil || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s %.20q %q: %v, want ...%s...", tt.path, tt.user, tt.stored, err, tt.why)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("other files: %v, %v", entries, err)
	}
}

func TestSetPasswordManyAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := SetPassword(path, fmt.Sprint("user", i), secret, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := strings.Count(read(t, path), "\n"); n != 20 {
		t.Errorf("%d users of 20", n)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("other files: %v, %v", entries, err)
	}
}

// modeAndOwner are the attributes that SetPassword keeps.
type modeAndOwner struct{ mode, uid, gid uint32 }

func statOf(t *testing.T, path string) modeAndOwner {
	t.Helper()
	var raw unix.Stat_t
	if err := unix.Stat(path, &raw); err != nil {
		t.Fatal(err)
	}
	return modeAndOwner{uint32(raw.Mode), raw.Uid, raw.Gid}
}
