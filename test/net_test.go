package test

import (
	"fmt"
	"net"
	"strconv"
	"time"
)

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// listening says whether somebody accepts connections at addr.
func listening(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// loopbackClient gives each n a client address of its own in 127.0.0.0/8.
func loopbackClient(n int) *net.TCPAddr {
	return &net.TCPAddr{IP: net.ParseIP(fmt.Sprintf("127.1.%d.%d", n/250, 1+n%250))}
}
