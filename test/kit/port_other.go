//go:build !linux

package kit

import "net"

// keepPort only finds a port that is free: a second socket could not be bound to
// one that is kept.
func keepPort() (port int, free func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, nil, err
	}
	return l.Addr().(*net.TCPAddr).Port, func() {}, l.Close()
}
