package fileperm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxLinks is the number of symbolic links that Linux follows.
const maxLinks = 40

var errLoop = errors.New("too many symbolic links")

// An entry is a folder, a link or the file on a path.
type entry struct {
	path     string // without links in its folders
	mode     fs.FileMode
	uid, gid int

	// aside is set for the folders that only a link leads through. Without access to
	// them the file can still be reached by its real path.
	aside bool
}

func entryOf(path string, info fs.FileInfo) (entry, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return entry{}, false
	}
	return entry{path: path, mode: info.Mode(), uid: int(st.Uid), gid: int(st.Gid)}, true
}

// A trail is what follow found on a path.
type trail struct {
	at      string      // the real path, as far as it could be followed
	entries []entry     // each once, in the order in which the kernel passes them
	file    fs.FileInfo // of the file; nil after an error

	// descriptor is set if the path leads to a descriptor of a process (/dev/stdin,
	// /proc/self/fd/3), which need not have a name. Its entries end at the folder of the descriptors.
	descriptor bool

	err error // why the path cannot be followed to its end
}

// follow follows path, which is absolute, and its links as the kernel does.
func follow(path string) (t trail) {
	t.restart()
	rest := split(path)
	for links := 0; len(rest) > 0; {
		next := filepath.Join(t.at, rest[0])
		info, err := os.Lstat(next)
		if err != nil {
			t.err = err
			return t
		}
		t.pass(next, info)
		rest = rest[1:]
		if info.Mode()&fs.ModeSymlink == 0 {
			t.at, t.file = next, info
			continue
		}
		if strings.HasPrefix(t.at, "/proc/") && filepath.Base(t.at) == "fd" {
			t.descriptor = true
			return t
		}
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			t.err = errors.Join(errLoop, err)
			return t
		}
		if filepath.IsAbs(target) {
			t.restart()
		}
		rest = append(split(target), rest...)
	}
	t.finish()
	return t
}

// restart continues at the root folder.
func (t *trail) restart() {
	t.at = "/"
	if info, err := os.Lstat(t.at); err == nil {
		t.pass(t.at, info)
	}
}

// pass records an entry, if it is not there yet.
func (t *trail) pass(path string, info fs.FileInfo) {
	if slices.ContainsFunc(t.entries, func(e entry) bool { return e.path == path }) {
		return
	}
	if e, ok := entryOf(path, info); ok {
		t.entries = append(t.entries, e)
	}
}

// finish marks the folders that are not above the file.
func (t *trail) finish() {
	for i := range t.entries {
		e := &t.entries[i]
		below := strings.TrimSuffix(e.path, "/") + "/"
		e.aside = e.path != t.at && !strings.HasPrefix(t.at, below)
	}
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == filepath.Separator })
}
