package smtpd

import (
	"net"
	"time"
)

// unackedTime is how long a reply with Reply.OnSeen may stay unacknowledged. A phone
// that changes networks leaves a connection that neither ends nor acknowledges
// anything; the system would keep it for a quarter of an hour.
const unackedTime = time.Minute

// tcpOf returns the TCP connection of a client, or that of the proxy before it.
func tcpOf(c net.Conn) (*net.TCPConn, bool) {
	if proxied, ok := c.(interface{ TCPConn() (*net.TCPConn, bool) }); ok {
		return proxied.TCPConn()
	}
	tcp, ok := c.(*net.TCPConn)
	return tcp, ok
}
