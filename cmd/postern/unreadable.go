package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"postern/internal/fileperm"
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
	b, ok := fileperm.FindBlocker(path, fileperm.Read)
	if !ok {
		return err
	}
	return fmt.Errorf("%w\n%s", err, blocker{b, path}.advice(currentAccount()))
}

// A blocker is what is in the way of reading a file.
type blocker struct {
	fileperm.Blocker
	goal string // the file
}

func (b blocker) advice(a *account) string {
	kind := "file"
	if b.Mode.IsDir() {
		kind = "directory"
	}
	return fmt.Sprintf("user %s is stopped at the %s %s; to mend it, as root:\n    %s", a.name, kind, b, b.command(a))
}

// command is what an administrator would type.
func (b blocker) command(a *account) string {
	group := b.Group(a.groups)
	switch {
	case strings.HasPrefix(b.goal, "/etc/letsencrypt/"):
		return certbotACL(a.name)
	case b.UID == a.uid:
		return fmt.Sprintf("chmod u+%s %s", permLetter(b.Need), shellQuote(b.Path))
	case group != "": // as for Debian's ssl-cert
		return fmt.Sprintf("usermod -a -G %s %s", group, a.name)
	case b.Mode.IsDir():
		return fmt.Sprintf("setfacl -m u:%s:x %s", a.name, shellQuote(b.Path))
	}
	return fmt.Sprintf("chgrp %s %s && chmod g+r %[2]s", fileperm.GroupName(a.gid), shellQuote(b.Path))
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
	return &account{name: fileperm.UserName(os.Geteuid()), uid: os.Geteuid(), gid: os.Getegid(), groups: groups}
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
