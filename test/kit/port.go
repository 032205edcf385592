package kit

import (
	"net"
	"strconv"
	"testing"
)

// Addr is a TCP address on loopback, "127.0.0.1:" and a port, that is the test's
// until its end: a server may listen there, stop, and start again, and nobody
// else gets the port meanwhile, neither another test nor an outgoing connection.
// While no server listens, connections are refused.
func Addr(t testing.TB) string {
	t.Helper()
	port, free, err := keepPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(free)
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
