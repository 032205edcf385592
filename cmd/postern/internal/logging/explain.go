package logging

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
)

// sockets are the sockets of syslog daemons that package syslog tries.
var sockets = []string{"/dev/log", "/var/run/syslog", "/var/run/log"}

// explainSyslog replaces an error of syslog.New, which names neither a socket nor a reason, by
// the reason for the first of the sockets that exists.
func explainSyslog(err error, sockets []string) error {
	for _, path := range sockets {
		info, missing := os.Lstat(path)
		if missing != nil || info.Mode()&(fs.ModeSocket|fs.ModeSymlink) == 0 { // on Linux, the last two are often folders
			continue
		}
		c, refused := net.Dial("unixgram", path)
		switch {
		case refused == nil:
			_ = c.Close()
		case errors.Is(refused, syscall.ECONNREFUSED):
			return fmt.Errorf("log.destination: no syslog daemon listens on %s: %w\nstart it again (systemctl restart rsyslog)", path, refused)
		case errors.Is(refused, fs.ErrNotExist):
			return fmt.Errorf("log.destination: %s is a link to a socket that does not exist: %w\n"+
				"start the daemon that makes it (systemctl start systemd-journald-dev-log.socket)", path, refused)
		case errors.Is(refused, fs.ErrPermission):
			return fmt.Errorf("log.destination: no write access to the system log: %w\ngive it mode 0666, as syslog daemons do", refused)
		default:
			return fmt.Errorf("log.destination: cannot connect to the system log: %w\nset destination = \"stderr\" in [log]", refused)
		}
	}
	return fmt.Errorf("log.destination: there is no system log here, neither %s: %w\n"+
		"set destination = \"stderr\" in [log], which systemd and container engines collect; or start a syslog daemon", strings.Join(sockets, " nor "), err)
}
