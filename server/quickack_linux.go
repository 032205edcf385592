package server

import (
	"net"

	"golang.org/x/sys/unix"
)

// quickAck acknowledges at once what has been read. Most mail clients leave
// Nagle's algorithm on: they hold the EHLO behind a TLS handshake back until its
// last message is acknowledged, and in TLS 1.3 we have nothing to say to that
// message. Linux would wait for 40 ms before it sends a bare acknowledgement.
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
