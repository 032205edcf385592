package kit

import (
	"net"
	"strconv"
	"testing"
)

// Port is a TCP port of 127.0.0.1 that is the test's until its end: a server may
// listen there, stop, and start again, and nobody else gets the port meanwhile,
// neither another test nor an outgoing connection. While no server listens,
// connections are refused.
func Port(t testing.TB) int {
	t.Helper()
	port, free, err := keepPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(free)
	return port
}

// Addr is 127.0.0.1 with a port of its own: see Port.
func Addr(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(Port(t)))
}
