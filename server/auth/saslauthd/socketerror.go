package saslauthd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"postern/internal/fileperm"
)

// explain adds to the error of a connect what is in the way, and how saslauthd's
// own folder is dealt with.
func explain(path string, err error) error {
	err = fileperm.ExplainDial(err)
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
	blocker, ok := fileperm.FindBlocker(path, fileperm.Write)
	if !ok {
		blocker.Path = path
	}
	group := blocker.Group(nil)
	if group == "" {
		return "give this user access to " + blocker.Path + ", or let the daemon have its socket elsewhere"
	}
	return fmt.Sprintf("add the user to group %s, as root, and start postern again: usermod -a -G %[1]s %s",
		group, fileperm.UserName(os.Geteuid()))
}
