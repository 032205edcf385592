package process

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"postern/internal/fileperm"
)

// ExplainUnreadable adds to an error that means "permission denied" which file or
// folder causes it, with its owner and mode, and the command that corrects it. It
// checks the permissions of the running process, so it is useful only after root
// has been dropped. It returns other errors unchanged.
func ExplainUnreadable(err error) error {
	var p *fs.PathError
	if !errors.Is(err, fs.ErrPermission) || !errors.As(err, &p) {
		return err
	}
	path, absErr := filepath.Abs(p.Path)
	if absErr != nil {
		return err
	}
	if unix.Access(path, unix.R_OK) == nil { // access(2) checks the modes only
		return fmt.Errorf("%w\nits mode allows user %s to read it, but a sandbox does not: if this path is new, "+
			"restart postern (server.sandbox); otherwise check systemd (InaccessiblePaths=), SELinux and AppArmor",
			err, CurrentAccount().Name)
	}
	b, ok := fileperm.FindBlocker(path, fileperm.Read)
	if !ok {
		return err
	}
	a, kind := CurrentAccount(), "file"
	if b.Mode.IsDir() {
		kind = "directory"
	}
	return fmt.Errorf("%w\nuser %s has no access to the %s %s; to correct that, run as root:\n    %s",
		err, a.Name, kind, b, permit(path, b, a))
}

// permit returns the command with which an administrator lets a user read path,
// which b prevents.
func permit(path string, b fileperm.Blocker, a *Account) string {
	group := b.Group(a.Groups)
	switch {
	case strings.HasPrefix(path, "/etc/letsencrypt/"):
		return certbotACL(a.Name)
	case b.UID == a.UID && b.Mode.IsDir():
		return "chmod u+x " + ShellQuote(b.Path)
	case b.UID == a.UID:
		return "chmod u+r " + ShellQuote(b.Path)
	case group != "": // as with Debian's ssl-cert
		return fmt.Sprintf("usermod -a -G %s %s", group, a.Name)
	case b.Mode.IsDir():
		return fmt.Sprintf("setfacl -m u:%s:x %s", a.Name, ShellQuote(b.Path))
	}
	return fmt.Sprintf("chgrp %s %s && chmod g+r %[2]s", fileperm.GroupName(a.GID), ShellQuote(b.Path))
}

// certbotACL lets a user read the folders that certbot creates for root only. The
// default ACL applies to folders of certificates that are added later, and certbot
// gives a renewed key the permissions of the previous one.
func certbotACL(name string) string {
	return fmt.Sprintf("setfacl -R -m u:%[1]s:rX,d:u:%[1]s:rX /etc/letsencrypt/live /etc/letsencrypt/archive\n"+
		"(package acl; or let a deploy hook in /etc/letsencrypt/renewal-hooks/deploy copy the pair to a folder that %[1]s can read)", name)
}

// ShellQuote returns s as one word of a POSIX shell.
func ShellQuote(s string) string { return fileperm.ShellQuote(s) }
