package server

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// giveUpUnacked has the connection fail when what was written to it is not
// acknowledged for d; 0 is the system's time, about a quarter of an hour. (RFC
// 5482: the user timeout of TCP.)
//
// A phone that changes networks leaves a connection behind that neither ends
// nor acknowledges anything. By the time it was given up, its message would have
// come again many times.
func giveUpUnacked(c net.Conn, d time.Duration) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return // behind a proxy, which deals with its client by itself
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
	}
}
