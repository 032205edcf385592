package server

import (
	"net"

	"golang.org/x/sys/unix"
)

// quickAck acknowledges at once what has been read. Most mail clients leave
// Nagle's algorithm on: they hold back what they have to say next until all
// before it is acknowledged. Where we have nothing to say ourselves, Linux waits
// for 40 ms before it sends a bare acknowledgement, and so does such a client:
// with the EHLO behind a handshake of TLS 1.3, and with the final dot.
func quickAck(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return // behind a proxy, which deals with its client by itself
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
		})
	}
}
