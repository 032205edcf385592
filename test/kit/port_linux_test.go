package kit

import (
	"net"
	"testing"
)

// A server comes and goes, and nobody else gets its port.
func TestAddr(t *testing.T) {
	addr := Addr(t)
	for range 3 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Fatal("somebody listens before the server does")
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		server.Close() // first, so that its side has to linger
		c.Close()
		l.Close()
	}
}

// Whoever listens or connects at any port gets another one.
func TestAddrIsNobodyElses(t *testing.T) {
	taken := map[string]bool{}
	for range 200 {
		addr := Addr(t)
		if taken[addr] {
			t.Fatalf("%s twice", addr)
		}
		taken[addr] = true
	}
	for range 2000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if taken[l.Addr().String()] || taken[c.LocalAddr().String()] {
			t.Errorf("%s and %s are somebody else's", l.Addr(), c.LocalAddr())
		}
		_ = c.(*net.TCPConn).SetLinger(0) // leaves no trace
		c.Close()
		l.Close()
	}
}
