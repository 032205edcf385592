package fileperm

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A Kind is what a file contains, and so from whom it must be kept.
type Kind int

// The kinds. No file may be writable for every user of the machine.
const (
	Public  Kind = iota // configuration, table, certificate: every user may read it
	Private             // users and hashes: a warning if every user can read it
	Secret              // key, password: an error if every user can read it
)

// A Refused is the error of a file that is not used because of its type or its permissions.
// The text names the file or the folder that is the cause, and the next step.
type Refused string

func (r Refused) Error() string { return string(r) }

// A finding is one permission that should not be.
type finding struct {
	serious bool
	text    string
}

// Check returns an error, a [Refused], if a file must not be used. It is for files that a library
// opens by their path; [Open] checks the file that it opens. A file that is missing or cannot be
// reached is left to what opens it. A folder can be checked, too.
func Check(path string, k Kind) error {
	t := follow(absolute(path))
	if t.err != nil {
		return nil
	}
	if t.file != nil && !t.file.IsDir() && !t.file.Mode().IsRegular() {
		return Refused(path + " is not a regular file")
	}
	return refusal(path, thisHost().judge(t, k))
}

// Warnings returns what should be corrected in the permissions of a file and does not prevent
// its use.
func Warnings(path string, k Kind) (texts []string) {
	t := follow(absolute(path))
	if t.err != nil {
		return nil
	}
	for _, f := range thisHost().judge(t, k) {
		if !f.serious {
			texts = append(texts, f.text)
		}
	}
	return texts
}

// absolute returns path from the root folder on. It keeps "..", which after a link is not the
// folder that contains the link.
func absolute(path string) string {
	if dir, err := os.Getwd(); err == nil && !filepath.IsAbs(path) {
		return dir + "/" + path
	}
	return path
}

// refusal returns the serious findings about path as one error, or nil.
func refusal(path string, all []finding) error {
	var texts []string
	for _, f := range all {
		if f.serious {
			texts = append(texts, f.text)
		}
	}
	if len(texts) == 0 {
		return nil
	}
	text := strings.Join(texts, "; ")
	if !strings.Contains(text, path) { // only a folder or the target of a link
		text = path + ": " + text
	}
	return Refused(text)
}

// judge applies the rules to a file and everything that its path passes.
func (h *host) judge(t trail, k Kind) (all []finding) {
	for _, e := range t.entries {
		if !h.trustsUser(e.uid) {
			all = append(all, finding{text: fmt.Sprintf("user %s can %s; if that is not intended, run chown -h root %s",
				UserName(e.uid), what(e), ShellQuote(e.path))})
		}
		if f, ok := h.writable(e, t); ok {
			all = append(all, f)
		}
	}
	if f, ok := h.readable(t, k); ok {
		all = append(all, f)
	}
	return all
}

// what describes what a user can do with write access to an entry. It is the same for all files
// below a folder.
func what(e entry) string {
	switch {
	case e.mode.IsDir():
		return fmt.Sprintf("replace the files in the folder %s, which has mode %04o", e.path, e.mode.Perm())
	case e.mode&fs.ModeSymlink != 0:
		return "change the link " + e.path
	}
	return fmt.Sprintf("change %s, which has mode %04o", e.path, e.mode.Perm())
}

// The permissions of a mode for the group and for others.
const (
	groupWrite  fs.FileMode = 0o020
	othersRead  fs.FileMode = 0o004
	othersWrite fs.FileMode = 0o002
	othersEnter fs.FileMode = 0o001
)

// writable finds write access of others. In a sticky folder, users can replace only their own
// files. The mode of a link has no meaning.
func (h *host) writable(e entry, t trail) (finding, bool) {
	mode := e.mode
	if mode&fs.ModeSymlink != 0 || mode.IsDir() && mode&fs.ModeSticky != 0 {
		return finding{}, false
	}
	switch {
	case mode&othersWrite != 0 && h.modeless(e, t):
		return finding{text: fmt.Sprintf("every user of this machine can %s, on a file system without modes; "+
			"move the file to another file system, or mount this one with umask=022 (CIFS: file_mode=0644,dir_mode=0755)", what(e))}, true
	case mode&othersWrite != 0:
		return finding{serious: true, text: fmt.Sprintf("every user of this machine can %s; run chmod o-w %s", what(e), ShellQuote(e.path))}, true
	case mode&groupWrite != 0 && !h.trustsGroup(e):
		return finding{text: fmt.Sprintf("the members of group %s can %s; if that is not intended, run chmod g-w %s",
			GroupName(e.gid), what(e), ShellQuote(e.path))}, true
	}
	return finding{}, false
}

// readable finds read access of others to a file that is not public. They have it only if they
// can enter all folders above the file.
func (h *host) readable(t trail, k Kind) (finding, bool) {
	if k == Public || h.secretFolder(t.at) {
		return finding{}, false
	}
	var file entry
	for _, e := range t.entries {
		if e.path == t.at {
			file = e
		}
		if e.mode.IsDir() && !e.aside && e.mode&othersEnter == 0 {
			return finding{}, false
		}
	}
	if file.mode&othersRead == 0 || file.mode.IsDir() {
		return finding{}, false
	}
	path, mode := ShellQuote(file.path), file.mode.Perm()
	if k == Private {
		return finding{text: fmt.Sprintf("every user of this machine can read the users and hashes in %s, which has mode %04o; run chmod o= %s", file.path, mode, path)}, true
	}
	// A file with mode 0777 of a file system without modes is reported as writable.
	tolerated := h.container || mode&othersWrite != 0 && h.modeless(file, t)
	return finding{
		serious: !tolerated,
		text:    fmt.Sprintf("%s has mode %04o, which gives every user of this machine access to the secret; run chmod o= %s", file.path, mode, path),
	}, true
}

// matches reports whether a trail ends at an open file.
func (t trail) matches(info fs.FileInfo) bool {
	return t.err == nil && t.file != nil && os.SameFile(t.file, info)
}
