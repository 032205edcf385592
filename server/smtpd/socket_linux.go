package smtpd

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// hungUp reports whether the client has ended the connection. It reads nothing:
// what the client sent before that is still there.
func hungUp(c net.Conn) bool {
	tcp, ok := tcpOf(c)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true // closed by the server
	}
	state := uint8(unix.BPF_TCP_ESTABLISHED) // both sides may still send (RFC 9293, section 3.3.2)
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	})
	return err != nil || state != unix.BPF_TCP_ESTABLISHED
}

// quickAck acknowledges at once what has been read. Most mail clients leave Nagle's
// algorithm on: they hold back what they would send next until all before it is
// acknowledged. Where the server has nothing to send itself, Linux waits for 40 ms
// before it sends a bare acknowledgement, and such a client waits, too: with the EHLO
// after a handshake of TLS 1.3, and with the final dot.
func quickAck(c net.Conn) { setTCPOption(c, unix.TCP_QUICKACK, 1) }

// giveUpUnacked has the connection fail when what was sent is not acknowledged
// within d (RFC 5482, the user timeout of TCP); 0 is the system's time, about a
// quarter of an hour.
func giveUpUnacked(c net.Conn, d time.Duration) {
	setTCPOption(c, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}

// setTCPOption does nothing where a proxy connects: it has the client's connection.
func setTCPOption(c net.Conn, option, value int) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value)
		})
	}
}
