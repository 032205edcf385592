package saslauthd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"postern/server/auth"
)

// explain adds to the error of a connect what is in the way, and how saslauthd's
// own folder is dealt with.
func explain(path string, err error) error {
	err = auth.ExplainDial(err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w (saslauthd has its socket in the folder that -m names; "+
			"for Debian see OPTIONS in /etc/default/saslauthd)", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; %s", err, advice(path))
	}
	return err
}

// advice says how to get past what is in the way: Debian's /run/saslauthd has
// mode 0710 and belongs to root:sasl.
func advice(path string) string {
	blocker, need := firstForbidden(path)
	var st unix.Stat_t
	if unix.Lstat(blocker, &st) != nil || st.Gid == 0 || uint32(st.Mode)&(need<<3) == 0 {
		return "give this user access to " + blocker + ", or let the daemon have its socket elsewhere"
	}
	group := groupName(int(st.Gid))
	return fmt.Sprintf("add the user to group %s, as root, and start postern again: usermod -a -G %[1]s %s",
		group, userName(os.Geteuid()))
}

// firstForbidden is the folder on the way that may not be passed, or the socket,
// with the permission that is missing.
func firstForbidden(path string) (blocker string, need uint32) {
	blocker, need = path, unix.W_OK
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if unix.Faccessat(unix.AT_FDCWD, dir, unix.X_OK, unix.AT_EACCESS) != nil {
			blocker, need = dir, unix.X_OK
		}
		if dir == filepath.Dir(dir) {
			return blocker, need
		}
	}
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
