package userfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"postern/server/auth"
	"postern/test/kit"
)

// The files that passwd may have to change. Each has bob, and alice at most twice.
var inPlaceFiles = map[string]string{
	"new user":        "bob:" + secret + "\n",
	"no end of line":  "bob:" + secret,
	"change":          "# users\nalice:" + secret + ":1000:1000::/home\nbob:" + secret + "\n",
	"at the end":      "bob:" + secret + "\nalice:" + secret,
	"twice":           "alice:" + secret + "\nbob:" + secret + "\nalice:!\n",
	"Windows":         "alice:" + secret + "\r\nbob:" + secret + "\r\n",
	"byte order mark": "\ufeffalice:" + secret + "\nbob:" + secret + "\n",
	"bars":            "alice|" + secret + "\nbob|" + secret + "\n",
}

func TestSetInPlace(t *testing.T) {
	for name, before := range inPlaceFiles {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "users")
			write(t, path, before)
			inode := statOf(t, path)
			kit.Must(t, setInPlace(path, "alice", other))
			if after := statOf(t, path); after != inode {
				t.Errorf("%v became %v", inode, after)
			}
			f, err := open(t, path)
			kit.Must(t, err)
			f.expect("alice", "other", "accepted")
			f.expect("bob", "secret", "accepted")
			if text := read(t, path); strings.Count(text, "alice") != 1 || !strings.HasSuffix(text, "\n") {
				t.Errorf("%q", text)
			}
			kit.Must(t, setInPlace(path, "alice", secret))
			f, err = open(t, path)
			kit.Must(t, err)
			f.expect("alice", "secret", "accepted")
		})
	}
}

// Whenever the process ends while it writes, each user has one password: alice the old or the
// new one, and bob his own.
func TestInPlaceIsWholeAtAnyTime(t *testing.T) {
	for name, before := range inPlaceFiles {
		old := hashOf(t, before, "alice")
		path := filepath.Join(t.TempDir(), "users")
		write(t, path, before)
		kit.Must(t, setInPlace(path, "alice", other))
		after := read(t, path)
		for n := len(before); n < len(after); n++ { // the appended part
			if got := hashOf(t, before+after[len(before):n], "alice"); old != "" && got != old {
				t.Errorf("%s, %d bytes appended: %q", name, n-len(before), got)
			}
		}
		appended := before + after[len(before):]
		places := linesOf([]byte(before), "alice")
		for i := len(places) - 1; i >= 0; i-- {
			for n := places[i].start + 1; n < places[i].end; n++ { // a part of the comment
				text := appended[:places[i].start] + after[places[i].start:n] + appended[n:]
				want := old
				if i == 0 {
					want = other
				}
				if got := hashOf(t, text, "alice"); got != want || hashOf(t, text, "bob") != secret {
					t.Fatalf("%s, line %d, %d bytes: got %q, want %q in\n%s", name, i, n-places[i].start, got, want, text)
				}
			}
			appended = appended[:places[i].start] + after[places[i].start:places[i].end] + appended[places[i].end:]
		}
		if appended != after {
			t.Errorf("%s: got\n%q, want\n%q", name, after, appended)
		}
	}
}

// hashOf returns the hash that a server uses for the user, or "".
func hashOf(t *testing.T, text, user string) string {
	t.Helper()
	users, _, err := parse([]byte(text), auth.FoldNone)
	kit.Must(t, err)
	if a := users.accounts[user]; a != nil {
		return a.stored
	}
	return ""
}

func TestInPlaceFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	before := inPlaceFiles["change"]
	write(t, path, before)
	f, err := os.Open(path) // not open for writing, so every write fails
	kit.Must(t, err)
	defer f.Close()
	if err := appendLine(f, []byte(before), []byte("x\n")); err == nil {
		t.Error("wrote to a file that is open for reading")
	}
	if got := read(t, path); got != before {
		t.Errorf("%q", got)
	}
	if err := appendLine(f, []byte("other"), []byte("x\n")); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("a file that has changed: %v", err)
	}
}

// Errors of a user who may not write name the folder, its owner and the user to run this as.
func TestAdvice(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users")
	write(t, path, "")
	denied := &replaceError{&os.PathError{Op: "open", Path: path, Err: unix.EACCES}}
	for _, tt := range []struct {
		err  error
		path string
		want string
	}{
		{&replaceError{&os.PathError{Op: "open", Path: path, Err: unix.EROFS}}, path, "mounted read-only"},
		{&os.PathError{Op: "write", Path: path, Err: unix.ENOSPC}, path, "free some space"},
		{&os.PathError{Op: "open", Path: path, Err: unix.ENOENT}, filepath.Join(dir, "gone", "users"), "install -d -m 0750 " + filepath.Join(dir, "gone")},
		{denied, path, "run this as user"},
		{denied, filepath.Join(dir, "new"), "may not write to the folder " + dir},
	} {
		if err := explainWrite(tt.path, tt.err); !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want %q", tt.err, err, tt.want)
		}
	}
	for _, err := range []error{errMounted, denied} {
		if obstacle(path, err) == "" {
			t.Errorf("%v: not written in place", err)
		}
	}
	if why := obstacle(path, unix.ENOSPC); why != "" {
		t.Errorf("full disk: %s", why)
	}
}
