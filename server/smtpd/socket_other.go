//go:build !linux

package smtpd

import (
	"net"
	"time"
)

// hungUp would report whether the client has ended the connection.
func hungUp(net.Conn) bool { return false }

// quickAck and giveUpUnacked are for Linux.
func quickAck(net.Conn) {}

func giveUpUnacked(net.Conn, time.Duration) {}
