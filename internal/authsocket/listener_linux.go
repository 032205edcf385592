package authsocket

import (
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// listener returns the name and the number of the process that listens on the other side of
// conn, or "" if the kernel does not show it, as for one in another container.
func listener(conn net.Conn) string {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return ""
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return ""
	}
	var pid int32
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = cred.Pid
		}
	})
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if pid <= 0 || err != nil {
		return ""
	}
	return fmt.Sprintf("%q (process %d)", strings.TrimSpace(string(name)), pid)
}
