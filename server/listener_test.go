package server

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
)

// A failingListener fails a few times, then accepts once, then is closed.
type failingListener struct {
	net.Listener
	failures int
	conn     net.Conn
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	return nil, net.ErrClosed
}

// TestAcceptGoesOn: a server that has run out of file descriptors accepts again
// when there are some.
func TestAcceptGoesOn(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	raw, end := tcpPair(t)
	d.server.listeners[0].accept(&failingListener{failures: 3, conn: raw})
	c := newClient(end.(*net.TCPConn), STARTTLS)
	if err := c.login("alice secret"); err != nil {
		t.Errorf("after three failures: %v\n%s", err, c.transcript())
	}
	if n := d.log.Count(`level=ERROR msg="cannot accept connections"*too many open files`); n != 3 {
		t.Errorf("%d lines in the log", n)
	}
}

// tcpPair returns the two ends of a connection over loopback.
func tcpPair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return server, client
}

func TestTrustedProxy(t *testing.T) {
	trusted := mustPrefixes(t, "192.0.2.0/24 2001:db8::/32")
	for addr, want := range map[string]bool{
		"192.0.2.7": true, "192.0.3.7": false, "2001:db8::7": true, "2001:db9::7": false, "127.0.0.1": false,
	} {
		if got := trustedProxy(trusted, netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if trustedProxy(nil, netip.MustParseAddr("127.0.0.1")) {
		t.Error("an address is trusted by default")
	}
}

// TestListenFails: if one address is taken, none stays bound.
func TestListenFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	d := newTestServer(t, defaultSettings())
	free, busy := d.parts.Listeners[0], d.parts.Listeners[0]
	free.Name, busy.Name = "free", "busy"
	busy.Address = []string{"127.0.0.1:0", taken.Addr().String()}
	parts := d.parts
	parts.Listeners = []ListenerParts{free, busy}
	s, err := New(parts)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err == nil {
		t.Fatal("Listen has bound an address that is taken")
	}
	for name, addrs := range s.Addrs() {
		for _, a := range addrs {
			if c, err := net.Dial("tcp", a.String()); err == nil {
				_ = c.Close()
				t.Errorf("%s still listens on %s", name, a)
			}
		}
	}
}
