//go:build !linux

package kit

import "net"

// keepPort finds a free port but cannot reserve it: on these systems a server could
// not listen on a port that another socket is bound to.
func keepPort() (port int, free func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, nil, err
	}
	return l.Addr().(*net.TCPAddr).Port, func() {}, l.Close()
}
