package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// An account is the user that the server runs as, with all its groups.
type account struct {
	name     string
	uid, gid int
	groups   []int // supplementary ones
}

// errRoot is the refusal to run as root for good.
var errRoot = errors.New(`refusing to run as root: set server.user to an unprivileged user, for example
    useradd --system --no-create-home --shell /usr/sbin/nologin postern
and in the configuration
    [server]
    user = "postern"
(postern binds its ports first and then becomes that user), or start it as such a user
with CAP_NET_BIND_SERVICE, as docs/systemd/postern.service does`)

// chooseAccount says whom to become: nil for nobody, since the process runs
// without privileges already.
func chooseAccount(name string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if name == "" {
		return nil, errRoot
	}
	a, err := lookupAccount(name)
	if err != nil {
		return nil, err
	}
	if a.uid == 0 {
		return nil, fmt.Errorf("server.user: %q is root under another name; name an unprivileged user", name)
	}
	return a, nil
}

// lookupAccount finds a user by name or number, as /etc/passwd and /etc/group
// have it.
func lookupAccount(name string) (*account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err != nil {
		return nil, fmt.Errorf("server.user: there is no user %q on this machine; create it with\n"+
			"    useradd --system --no-create-home --shell /usr/sbin/nologin %s", name, name)
	}
	return accountOf(u)
}

func accountOf(u *user.User) (*account, error) {
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("server.user: cannot read the groups of %q: %w", u.Username, err)
	}
	all, err := atois(append([]string{u.Uid, u.Gid}, ids...))
	if err != nil {
		return nil, fmt.Errorf("server.user: %q: %w", u.Username, err)
	}
	return &account{name: u.Username, uid: all[0], gid: all[1], groups: all[2:]}, nil
}

func atois(ss []string) ([]int, error) {
	ns := make([]int, len(ss))
	for i, s := range ss {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, err
		}
		ns[i] = n
	}
	return ns, nil
}

// become turns the whole process into a, for good: the functions of package
// syscall act on all threads, and as root they set the real, the effective and
// the saved id at once. The order matters, since only root may change groups.
func (a *account) become() error {
	if err := syscall.Setgroups(a.groups); err != nil {
		return fmt.Errorf("cannot take on the groups of %s: %w", a.name, err)
	}
	if err := syscall.Setgid(a.gid); err != nil {
		return fmt.Errorf("cannot take on the group of %s: %w", a.name, err)
	}
	if err := syscall.Setuid(a.uid); err != nil {
		return fmt.Errorf("cannot become %s: %w", a.name, err)
	}
	return a.verify()
}

// verify proves that the way back is closed.
func (a *account) verify() error {
	if syscall.Setuid(0) == nil || syscall.Setgid(0) == nil {
		return fmt.Errorf("became %s, but could become root again; a capability such as "+
			"CAP_SETUID was kept (securebits?): start postern without it", a.name)
	}
	if os.Getuid() != a.uid || os.Geteuid() != a.uid || os.Getgid() != a.gid || os.Getegid() != a.gid {
		return fmt.Errorf("wanted to become %s (%d:%d), but am %d:%d",
			a.name, a.uid, a.gid, os.Geteuid(), os.Getegid())
	}
	return nil
}

// dropPrivileges becomes a, where there is somebody to become, and gives up
// what a set-user-id program could bring back.
func dropPrivileges(a *account, log *slog.Logger) error {
	if a != nil {
		if err := forgetCapabilities(); err != nil {
			log.Warn("cannot empty the bounding set of capabilities; going on without", "err", err)
		}
		if err := a.become(); err != nil {
			return err
		}
		log.Info("root privileges dropped", "user", a.name, "uid", a.uid, "gid", a.gid, "groups", a.groups)
	}
	if err := forbidNewPrivileges(); err != nil {
		log.Warn("cannot set no_new_privs; going on without", "err", err)
	}
	return nil
}

// raiseFileLimit raises RLIMIT_NOFILE to its hard limit, which it returns.
// Each client costs one descriptor, a busy one up to three. (Max is signed on the
// BSDs.)
func raiseFileLimit() (uint64, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	l.Cur = l.Max
	return uint64(l.Max), syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}
