//go:build !linux

package server

import "net"

// quickAck would acknowledge at once what has been read.
func quickAck(net.Conn) {}
