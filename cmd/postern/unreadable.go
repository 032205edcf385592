package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// explainUnreadable adds to an error that means "permission denied" what is in
// the way, whose it is, its mode, and the command that mends it. It looks with
// the eyes of the running process, so it is of use after root was dropped.
// Other errors pass as they are.
func explainUnreadable(err error) error {
	var p *fs.PathError
	if !errors.Is(err, fs.ErrPermission) || !errors.As(err, &p) {
		return err
	}
	path, absErr := filepath.Abs(p.Path)
	if absErr != nil {
		return err
	}
	if unix.Access(path, unix.R_OK) == nil { // which asks the modes alone
		return fmt.Errorf("%w\nits mode would let user %s read it, but a sandbox does not: if this path is new, "+
			"restart postern (server.sandbox); or look at systemd (InaccessiblePaths=), SELinux and AppArmor",
			err, currentAccount().name)
	}
	b, ok := findBlocker(path)
	if !ok {
		return err
	}
	return fmt.Errorf("%w\n%s", err, b.advice(currentAccount()))
}

// A blocker is the file that cannot be opened, or the directory on the way to
// it that cannot be passed.
type blocker struct {
	path string // where the way ends
	goal string // what was to be read
	mode fs.FileMode
	uid  int
	gid  int
}

// maxLinks is how many symbolic links Linux follows before it gives up.
const maxLinks = 40

// findBlocker walks to path as the kernel does, link by link, until it may not
// go on.
func findBlocker(path string) (blocker, bool) {
	done, rest := "/", splitPath(path)
	for links := 0; len(rest) > 0; {
		next := filepath.Join(done, rest[0])
		info, err := os.Lstat(next)
		if err != nil {
			return blockerAt(done, path)
		}
		rest = rest[1:]
		if info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return blocker{}, false
		}
		if filepath.IsAbs(target) {
			done = "/"
		}
		rest = append(splitPath(target), rest...)
	}
	return blockerAt(done, path)
}

func splitPath(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == filepath.Separator })
}

func blockerAt(path, goal string) (blocker, bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return blocker{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return blocker{}, false
	}
	return blocker{path, goal, info.Mode(), int(st.Uid), int(st.Gid)}, true
}

func (b blocker) advice(a *account) string {
	kind := "file"
	if b.mode.IsDir() {
		kind = "directory"
	}
	return fmt.Sprintf("user %s is stopped at the %s %s, which belongs to %s:%s with mode %04o; to mend it, as root:\n    %s",
		a.name, kind, b.path, userName(b.uid), groupName(b.gid), b.mode.Perm(), b.command(a))
}

// command is what an administrator would type.
func (b blocker) command(a *account) string {
	need := fs.FileMode(0o4) // r for a file, x for a directory
	if b.mode.IsDir() {
		need = 0o1
	}
	switch {
	case strings.HasPrefix(b.goal, "/etc/letsencrypt/"):
		return certbotACL(a.name)
	case b.uid == a.uid:
		return fmt.Sprintf("chmod u+%s %s", permLetter(need), shellQuote(b.path))
	case b.mode.Perm()&(need<<3) != 0 && b.gid != 0 && !slices.Contains(a.groups, b.gid):
		return fmt.Sprintf("usermod -a -G %s %s", groupName(b.gid), a.name) // as for Debian's ssl-cert
	case b.mode.IsDir():
		return fmt.Sprintf("setfacl -m u:%s:x %s", a.name, shellQuote(b.path))
	}
	return fmt.Sprintf("chgrp %s %s && chmod g+r %[2]s", groupName(a.gid), shellQuote(b.path))
}

// certbotACL lets a user read what certbot keeps for root alone. The default
// ACL covers the directories of certificates to come, and certbot gives a
// renewed key the permissions of its predecessor.
func certbotACL(name string) string {
	return fmt.Sprintf("setfacl -R -m u:%[1]s:rX,d:u:%[1]s:rX /etc/letsencrypt/live /etc/letsencrypt/archive\n"+
		"(package acl; or let a deploy hook in /etc/letsencrypt/renewal-hooks/deploy copy the pair to where %[1]s can read it)", name)
}

func permLetter(p fs.FileMode) string {
	if p == 0o1 {
		return "x"
	}
	return "r"
}

// currentAccount is whom the process runs as, by number if it has no name (a
// container with an arbitrary uid).
func currentAccount() *account {
	groups, _ := os.Getgroups() // without them the advice is only less apt
	return &account{name: userName(os.Geteuid()), uid: os.Geteuid(), gid: os.Getegid(), groups: groups}
}

func userName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func groupName(gid int) string {
	id := strconv.Itoa(gid)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return !strings.ContainsRune("%+,-./:=@_", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	if s != "" && !strings.ContainsFunc(s, plain) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
