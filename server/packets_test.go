package server

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
)

// A countingConn counts the packets that the server sends.
type countingConn struct {
	net.Conn
	writes atomic.Int32
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// TestRepliesAreHeldBack: one command, or one batch of pipelined ones, costs one
// packet, however many lines the replies have.
func TestRepliesAreHeldBack(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	raw, end := tcpPair(t)
	counted := &countingConn{Conn: raw}
	go d.server.listeners[0].serve(counted)
	c := newClient(end.(*net.TCPConn), STARTTLS)
	one := func(what string, commands ...string) {
		t.Helper()
		counted.writes.Store(0)
		if err := c.converse(commands...); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, c.transcript())
		}
		if n := counted.writes.Load(); n != 1 {
			t.Errorf("%s: %d writes", what, n)
		}
	}
	c.must(t, "", "220")
	one("EHLO in clear", "EHLO client.example.org", "250")
	one("STARTTLS", "STARTTLS", "220")
	if err := c.startTLS(); err != nil {
		t.Fatal(err)
	}
	one("EHLO", "EHLO client.example.org", "250")
	one("AUTH", "AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235")
	// The first pair is the batch, the others only read.
	batch := []string{strings.Repeat("NOOP\r\n", 20) + "RSET", "250"}
	for range 20 {
		batch = append(batch, "", "250")
	}
	one("a batch", batch...)
	one("QUIT", "QUIT", "221")
}
