package server

import (
	"net"
	"time"
)

// A lingering is how connections are closed whose clients may be sending still.
// A system that closes a socket with bytes unread, or gets some afterwards, resets
// the connection (RFC 1122, section 4.2.2.13), and the client's loses what it has
// not handed on yet: our last words. So only our side is closed at first, and
// what the client still sends is thrown away until it has read them and closes,
// too, as servers of HTTP do (RFC 9112, section 9.6).
//
// All of this is bounded, and a connection keeps its place behind the gates
// meanwhile: who does not close gains nothing that silence would not give him.
type lingering struct {
	places  chan struct{} // of those that linger at once; the others are closed as they are
	most    time.Duration // for one connection
	silence time.Duration // without a byte
	bytes   int
}

func newLingering() *lingering {
	return &lingering{
		places:  make(chan struct{}, 512),
		most:    2 * time.Second,
		silence: time.Second,
		bytes:   8 << 20, // about what the buffers of both systems hold
	}
}

// over ends our side of c, and returns when the client has ended its own, or
// has had its time. The caller closes c.
func (l *lingering) over(c net.Conn) {
	tcp, ok := tcpOf(c)
	if !ok {
		return
	}
	select {
	case l.places <- struct{}{}:
		defer func() { <-l.places }()
	default:
		return
	}
	if tcp.CloseWrite() == nil {
		l.discard(tcp)
	}
}

func (l *lingering) discard(c net.Conn) {
	end := time.Now().Add(l.most)
	block := make([]byte, 8<<10)
	for left := l.bytes; left > 0; {
		by := time.Now().Add(l.silence)
		if end.Before(by) {
			by = end
		}
		_ = c.SetReadDeadline(by)
		n, err := c.Read(block)
		if err != nil && !(timedOut(err) && time.Now().Before(by)) { // or a shutdown has woken us
			return
		}
		left -= n
	}
}

// tcpOf returns the TCP connection of a client, or of the proxy before it.
func tcpOf(c net.Conn) (*net.TCPConn, bool) {
	if proxied, ok := c.(interface{ TCPConn() (*net.TCPConn, bool) }); ok {
		return proxied.TCPConn()
	}
	tcp, ok := c.(*net.TCPConn)
	return tcp, ok
}
