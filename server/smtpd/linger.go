package smtpd

import (
	"net"
	"time"
)

// A Linger bounds how connections are closed whose clients may be sending still. A
// system that closes a socket with octets unread, or receives some afterwards,
// resets the connection (RFC 1122, section 4.2.2.13), and the client loses what it
// has not read yet: the last reply. So only the server's side is closed at first, and
// what the client sends is thrown away until it has read the reply and closes, too,
// as HTTP servers do (RFC 9112, section 9.6).
//
// A connection counts towards the limits of the server meanwhile: a client that does
// not close gains nothing that silence would not give it. One Linger serves a whole
// server; its methods may be called by any goroutine, and its fields are not changed
// while it is in use. A nil Linger closes at once.
type Linger struct {
	MaxTotal time.Duration // for one connection
	MaxIdle  time.Duration // without an octet
	MaxBytes int           // of one connection

	slots chan struct{} // of connections that linger at once; others are closed at once
}

// NewLinger returns the bounds of a server: 512 connections, each for 2 seconds, 1
// second without an octet, and 8 MiB, about what the buffers of both systems hold.
func NewLinger() *Linger {
	return &Linger{MaxTotal: 2 * time.Second, MaxIdle: time.Second, MaxBytes: 8 << 20, slots: make(chan struct{}, 512)}
}

// wait closes the server's side of conn, and returns when the client has closed its
// own or a bound is reached. The caller closes conn.
func (l *Linger) wait(conn net.Conn) {
	tcp, ok := tcpOf(conn)
	if l == nil || !ok {
		return
	}
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	default:
		return
	}
	if tcp.CloseWrite() == nil {
		l.discard(tcp)
	}
}

func (l *Linger) discard(conn net.Conn) {
	end := time.Now().Add(l.MaxTotal)
	buffer := make([]byte, 8<<10)
	for left := l.MaxBytes; left > 0; {
		by := time.Now().Add(l.MaxIdle)
		if end.Before(by) {
			by = end
		}
		_ = conn.SetReadDeadline(by)
		n, err := conn.Read(buffer)
		if err != nil && !(timedOut(err) && time.Now().Before(by)) { // or CloseIdle has woken us
			return
		}
		left -= n
	}
}
