package process

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"postern/internal/fileperm"
)

// An Account is a user of the system with all groups.
type Account struct {
	Name     string
	UID, GID int
	Groups   []int // supplementary ones
}

var errRoot = errors.New(`refusing to run as root: set server.user to an unprivileged user, for example
    useradd --system --no-create-home --shell /usr/sbin/nologin postern
and in the configuration
    [server]
    user = "postern"
(postern binds its ports first and then becomes that user), or start it as an unprivileged user
with CAP_NET_BIND_SERVICE, as docs/systemd/postern.service does`)

// ChooseAccount returns the account that a server with server.user = name must
// become. It is nil if the process does not run as root, and has no privileges to
// drop.
func ChooseAccount(name string) (*Account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if name == "" {
		return nil, errRoot
	}
	a, err := LookupAccount(name)
	if err != nil {
		return nil, err
	}
	if a.UID == 0 {
		return nil, fmt.Errorf("server.user: %q is another name of root; name an unprivileged user", name)
	}
	return a, nil
}

// LookupAccount finds a user by name or number in the system's databases of users
// and groups.
func LookupAccount(name string) (*Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err != nil {
		return nil, fmt.Errorf("server.user: there is no user %q on this machine; create it with\n"+
			"    useradd --system --no-create-home --shell /usr/sbin/nologin %s", name, name)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("server.user: cannot read the groups of %q: %w", u.Username, err)
	}
	ids, err := atois(append([]string{u.Uid, u.Gid}, groups...))
	if err != nil {
		return nil, fmt.Errorf("server.user: %q: %w", u.Username, err)
	}
	return &Account{Name: u.Username, UID: ids[0], GID: ids[1], Groups: ids[2:]}, nil
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

// CurrentAccount returns the account that the process runs as. A user without a
// name has its number as name (a container with an arbitrary UID).
func CurrentAccount() *Account {
	groups, _ := os.Getgroups() // without them, advice about permissions is less precise
	return &Account{Name: fileperm.UserName(os.Geteuid()), UID: os.Geteuid(), GID: os.Getegid(), Groups: groups}
}

// DropPrivileges makes the process run as a for good, and sets no_new_privs, so
// that no set-user-ID program can give privileges back. If a is nil, the user stays
// the same.
func DropPrivileges(a *Account, log *slog.Logger) error {
	if a != nil {
		if err := emptyBoundingSet(); err != nil {
			log.Warn("cannot empty the bounding set of capabilities; going on without", "err", err)
		}
		if err := a.become(); err != nil {
			return err
		}
		log.Info("root privileges dropped", "user", a.Name, "uid", a.UID, "gid", a.GID, "groups", a.Groups)
	}
	if err := setNoNewPrivileges(); err != nil {
		log.Warn("cannot set no_new_privs; going on without", "err", err)
	}
	return nil
}

// become changes the user of the whole process: the functions of package syscall
// act on all threads, and as root they set the real, the effective and the saved ID
// at once. The groups come first, since only root may change them.
func (a *Account) become() error {
	if err := syscall.Setgroups(a.Groups); err != nil {
		return fmt.Errorf("cannot set the supplementary groups of %s: %w", a.Name, err)
	}
	if err := syscall.Setgid(a.GID); err != nil {
		return fmt.Errorf("cannot set the group of %s: %w", a.Name, err)
	}
	if err := syscall.Setuid(a.UID); err != nil {
		return fmt.Errorf("cannot become %s: %w", a.Name, err)
	}
	if syscall.Setuid(0) == nil || syscall.Setgid(0) == nil {
		return fmt.Errorf("became %s, but could become root again, so a capability such as "+
			"CAP_SETUID was kept (securebits?); start postern without it", a.Name)
	}
	if os.Getuid() != a.UID || os.Geteuid() != a.UID || os.Getgid() != a.GID || os.Getegid() != a.GID {
		return fmt.Errorf("tried to become %s (%d:%d), but became %d:%d",
			a.Name, a.UID, a.GID, os.Geteuid(), os.Getegid())
	}
	return nil
}
