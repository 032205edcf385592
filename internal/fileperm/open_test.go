package fileperm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"postern/test/kit"
)

// Only a regular file of bounded size is read, and a named pipe is not waited for.
func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	kit.Must(t, os.WriteFile(file, []byte("topsecret"), 0o600))
	for limit, ok := range map[int64]bool{9: true, 8: false} {
		text, err := ReadSecret(file, limit)
		if ok && (err != nil || string(text) != "topsecret") || !ok && (err == nil || strings.Contains(err.Error(), "topsecret")) {
			t.Errorf("at most %d bytes: %q, %v", limit, text, err)
		}
	}
	if _, err := ReadSecret(filepath.Join(dir, "missing"), 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	kit.Must(t, errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink(pipe, link)))
	for _, path := range []string{pipe, link, dir, "/dev/zero"} {
		_, err := ReadSecret(path, 3)
		if _, refused := errors.AsType[Refused](err); !refused || !strings.Contains(err.Error(), path+" is not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A file that every user can write to, or whose folder is writable for all, is refused with its path and the
// command that corrects it. The modes of links have no meaning.
func TestReadSecretRefusesWritableFiles(t *testing.T) {
	for _, tt := range []struct {
		name, path string // path is relative to the folder
		mode       fs.FileMode
		at, want   string // at is what gets the mode; want is empty if the file is read
	}{
		{"file", "open/file", 0o602, "open/file", "chmod o-w DIR/open/file"},
		{"execute only", "open/file", 0o601, "open/file", ""},
		{"folder", "open/file", 0o703, "open", "chmod o-w DIR/open"},
		{"sticky folder", "open/file", 0o707 | fs.ModeSticky, "open", ""},
		{"folder above", "open/inner/file", 0o707, "open", "chmod o-w DIR/open"},
		{"target of a link", "links/file", 0o606, "open/file", "chmod o-w DIR/open/file"},
		{"folder of a link", "links/file", 0o707, "links", "chmod o-w DIR/links"},
		{"folder of a target", "links/file", 0o707, "open", "chmod o-w DIR/open"},
		{"folder of a second link", "links/second", 0o707, "middle", "chmod o-w DIR/middle"},
		{"link to a folder", "links/folder/file", 0o707, "open", "chmod o-w DIR/open"},
		{"..", "links/../open/file", 0o707, "open", "chmod o-w DIR/open"},
		{"a folder that is not on the path", "open/file", 0o707, "links", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			in := func(name string) string { return filepath.Join(dir, name) }
			for _, folder := range []string{"open", "open/inner", "links", "middle"} {
				kit.Must(t, os.Mkdir(in(folder), 0o700))
			}
			for _, file := range []string{"open/file", "open/inner/file"} {
				kit.Must(t, os.WriteFile(in(file), []byte("x"), 0o600))
			}
			for link, target := range map[string]string{
				"links/file": "../open/file", "links/second": in("middle/file"), "middle/file": "../open/file", "links/folder": in("open"),
			} {
				kit.Must(t, os.Symlink(target, in(link)))
			}
			kit.Must(t, os.Chmod(in(tt.at), tt.mode))
			_, err := ReadSecret(dir+"/"+tt.path, 9)
			_, refused := errors.AsType[Refused](err)
			if refused != (tt.want != "") || err != nil && !refused {
				t.Fatalf("%v", err)
			}
			if refused && !strings.Contains(err.Error(), strings.ReplaceAll(tt.want, "DIR", dir)) {
				t.Errorf("%v", err)
			}
			if checked := Check(dir+"/"+tt.path, Secret); (checked != nil) != refused || refused && checked.Error() != err.Error() {
				t.Errorf("Check: %v", checked)
			}
		})
	}
}

// A file that is replaced between opening and checking it is opened again.
func TestReplacedFile(t *testing.T) {
	dir := t.TempDir()
	file, other := filepath.Join(dir, "file"), filepath.Join(dir, "other")
	kit.Must(t, errors.Join(os.WriteFile(file, nil, 0o600), os.WriteFile(other, nil, 0o600)))
	info, err := os.Stat(file)
	kit.Must(t, err)
	if same, err := thisHost().accepts(file, info, Secret); !same || err != nil {
		t.Errorf("the same file: %v, %v", same, err)
	}
	kit.Must(t, os.Rename(other, file))
	if same, err := thisHost().accepts(file, info, Secret); same || err != nil {
		t.Errorf("another file: %v, %v", same, err)
	}
}

// What the process was started with is accepted as it is: "< file" and "<(command)".
func TestDescriptors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	kit.Must(t, errors.Join(os.WriteFile(file, []byte("text"), 0o600), os.Chmod(file, 0o666)))
	f, err := os.Open(file)
	kit.Must(t, err)
	defer f.Close()
	kit.Must(t, os.Remove(file))
	path := filepath.Join("/dev/fd", itoa(int(f.Fd())))
	if _, err := os.Stat(path); err != nil {
		t.Skip("this system has no /dev/fd")
	}
	if text, err := ReadFile(path, Public, "", 9); string(text) != "text" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func TestReadSecretLine(t *testing.T) {
	tests := []struct {
		name, text string
		mode       fs.FileMode
		want       string // empty: an error
	}{
		{"a line", "top secret\n", 0o600, "top secret"},
		{"no line end", " topsecret", 0o640, " topsecret"},
		{"DOS", "topsecret\r\n", 0o400, "topsecret"},
		{"empty", "", 0o600, ""},
		{"blank", "\n", 0o600, ""},
		{"two lines", "topsecret\ntopsecret\n", 0o600, ""},
		{"NUL", "top\x00secret", 0o600, ""},
		{"long", strings.Repeat("topsecret", 1000), 0o600, ""},
		{"readable by all, in a private folder", "topsecret\n", 0o644, "topsecret"},
		{"writable by all", "topsecret\n", 0o602, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			kit.Must(t, errors.Join(os.WriteFile(path, []byte(tt.text), 0o600), os.Chmod(path, tt.mode)))
			got, err := ReadSecretLine(path)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Fatalf("%q, %v", got, err)
			}
			if err != nil && (!strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "topsecret")) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Whoever can replace a file cannot avoid the check by a link through /proc.
func TestLinkThroughProc(t *testing.T) {
	dir := kit.OpenDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	file := in("file")
	kit.Must(t, errors.Join(os.WriteFile(file, nil, 0o600), os.Mkdir(in("open"), 0o700), os.Chmod(in("open"), 0o777),
		os.Symlink("/proc/self/root"+file, in("root")), os.Symlink("/proc/self/root"+file, in("open/root"))))
	f, err := os.Open(file)
	kit.Must(t, err)
	defer f.Close()
	kit.Must(t, os.Symlink("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), in("open/descriptor")))
	h := plainHost()
	h.uid = os.Geteuid()
	for name, want := range map[string]string{"root": "", "open/root": "o-w", "open/descriptor": "o-w"} {
		opened, _, err := h.open(in(name), Public, "a file")
		if err == nil {
			opened.Close()
		}
		if got := fmt.Sprint(err); (want == "") != (err == nil) || !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	kit.Must(t, os.Chmod(file, 0o606))
	if _, _, err := h.open(in("root"), Public, "a file"); err == nil {
		t.Error("the mode of the target is not checked")
	}
}
