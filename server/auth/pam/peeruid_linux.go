package pam

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerUID asks the kernel who has connected. It is who the process was at that
// moment.
func peerUID(conn net.Conn) (int, error) {
	uid := -1
	err := control(conn, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			uid = int(cred.Uid)
		}
		return err
	})
	return uid, err
}
