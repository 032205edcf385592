package pam

import (
	"errors"
	"io"
	"net"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// errGone ends a child whose answer nobody waits for any more.
var errGone = errors.New("the client has hung up")

// hungUp waits until the client is gone, and reports false if it was not the
// client that ended the waiting. Somebody who has only closed his own direction,
// as a shell's pipe does, is still there.
func hungUp(conn net.Conn) bool {
	var rest [64]byte
	for {
		_, err := conn.Read(rest[:])
		switch {
		case err == nil:
			continue // nothing more is of interest
		case errors.Is(err, io.EOF):
			return bothWaysClosed(conn)
		}
		return errors.Is(err, syscall.ECONNRESET)
	}
}

func bothWaysClosed(conn net.Conn) bool {
	closed := false
	err := control(conn, func(fd int) error {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(fds, 0)
		closed = fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		return err
	})
	return err == nil && closed
}

// caller is the user id of the process at the other end, for the log.
func caller(conn net.Conn) string {
	uid, err := peerUID(conn)
	if err != nil {
		return "unknown"
	}
	return strconv.Itoa(uid)
}

// control calls f with the descriptor of a socket.
func control(conn net.Conn, f func(fd int) error) error {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
