package server

import (
	"net"

	"golang.org/x/sys/unix"
)

// tcpEstablished is the state in which both sides may still send (RFC 9293,
// section 3.3.2; linux/tcp_states.h).
const tcpEstablished = 1

// hungUp reports whether the client has ended the connection. It reads nothing:
// what the client has sent before that is still there.
func hungUp(c net.Conn) bool {
	tcp, ok := tcpOf(c)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true // closed by us
	}
	state := uint8(tcpEstablished)
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	})
	return err != nil || state != tcpEstablished
}
