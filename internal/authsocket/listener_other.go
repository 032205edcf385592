//go:build !linux

package authsocket

import "net"

// listener returns nothing on systems without SO_PEERCRED.
func listener(net.Conn) string { return "" }
