package server

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
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

// trustedProxyAddr must send a header.
var trustedProxyAddr = netip.MustParseAddrPort("203.0.113.9:40000")

const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// FuzzProxyHeader has a trusted proxy send anything in the place of its header. Only a
// whole header is greeted, and the client is the one that a second reader finds in it, or
// the proxy, where the header is for the proxy's own connection.
func FuzzProxyHeader(f *testing.F) {
	v2 := func(command, family byte, addresses string) string {
		return proxySignature + string([]byte{command, family, byte(len(addresses) >> 8), byte(len(addresses))}) + addresses
	}
	ipv4 := "\xc0\x00\x02\x01\xc6\x33\x64\x01\xc3\x50\x02\x4b"
	ipv6 := strings.Repeat("\x20\x01\x0d\xb8", 8) + "\xc3\x50\x02\x4b"
	for _, header := range []string{
		"PROXY TCP4 192.0.2.1 198.51.100.1 50000 587\r\n", "PROXY TCP6 2001:db8::1 2001:db8::2 50000 587\r\n", "PROXY UNKNOWN\r\n",
		"PROXY TCP4 192.0.2.1 198.51.100.1 50000 587\n", "PROXY TCP4 2001:db8::1 198.51.100.1 50000 587\r\n", "PROXY TCP4 192.0.2.1\r\n",
		"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "PROXY TCP4 192.0.2.1 198.51.100.1 99999 587\r\n", "PROXY TCP4 0x7f.1 198.51.100.1 1 587\r\n",
		"PROXY UNKNOWN " + strings.Repeat("x", 200) + "\r\n", "PROXY ", "EHLO x\r\n", "", "\x16\x03\x01\x00\x05hello",
		v2(0x21, 0x11, ipv4), v2(0x21, 0x21, ipv6), v2(0x20, 0x00, ""), v2(0x20, 0x11, ipv4), v2(0x21, 0x11, ipv4+"\x04\x00\x01x"), v2(0x21, 0x11, ipv4[:8]),
		v2(0x21, 0x12, ipv4), v2(0x21, 0x31, strings.Repeat("x", 216)), v2(0x21, 0x00, ""), v2(0x31, 0x11, ipv4), v2(0x22, 0x11, ipv4),
		v2(0x21, 0x11, ipv4)[:20], v2(0x21, 0x11, ipv4) + "PROXY TCP4 192.0.2.9 198.51.100.1 50000 587\r\n",
	} {
		f.Add([]byte(header), byte(0))
		f.Add([]byte(header), byte(1))
	}
	s := newFuzzServer(f)
	f.Fuzz(func(t *testing.T, header []byte, sip byte) {
		s.log.clients()
		p := newPipe(trustedProxyAddr)
		p.sip = int(sip)
		watchdog := time.AfterFunc(patience, p.giveUp)
		defer watchdog.Stop()
		s.sockets[starttlsListener].conns <- serverEnd{p}
		p.send(append(bytes.Clone(header), "QUIT\r\n"...))
		p.cut(0, false)
		if !p.over() {
			t.Fatalf("%q: the connection is still open", header)
		}
		s.isEmpty(t)
		greeted := bytes.HasPrefix(p.down, []byte("220 "))
		if !greeted && len(p.down) > 0 {
			t.Errorf("%q: the server has sent %q", header, p.down)
		}
		client, ok := namedClient(append(header, "QUIT\r\n"...))
		seen := s.log.clients()
		if greeted && !ok || greeted && (len(seen) != 1 || seen[0] != client.String()) || !greeted && len(seen) > 0 {
			t.Errorf("%q: greeted %v, as %q; it is %v of %v", header, greeted, seen, ok, client)
		}
	})
}

// namedClient is the client that a header names, or the proxy if it names none (the PROXY protocol, versions 1 and 2,
// section 2).
func namedClient(header []byte) (client netip.Addr, ok bool) {
	if rest, found := bytes.CutPrefix(header, []byte(proxySignature)); found {
		return namedClientBinary(rest)
	}
	line, _, found := bytes.Cut(header, []byte("\r\n"))
	words := strings.Split(string(line), " ")
	if !found || len(line) > 105 || words[0] != "PROXY" || len(words) < 2 {
		return client, false
	}
	if words[1] == "UNKNOWN" {
		return trustedProxyAddr.Addr(), true
	}
	if len(words) != 6 {
		return client, false
	}
	client, err := netip.ParseAddr(words[2])
	return client.Unmap(), err == nil && (words[1] == "TCP4" || words[1] == "TCP6")
}

func namedClientBinary(b []byte) (client netip.Addr, ok bool) {
	if len(b) < 4 || len(b) < 4+int(binary.BigEndian.Uint16(b[2:])) {
		return client, false
	}
	command, family, b := b[0], b[1], b[4:4+int(binary.BigEndian.Uint16(b[2:]))]
	switch {
	case command == 0x20: // LOCAL: the proxy's own connection
		return trustedProxyAddr.Addr(), true
	case command != 0x21:
		return client, false
	case family == 0x11 && len(b) >= 12:
		client, _ = netip.AddrFromSlice(b[:4])
		return client, true
	case family == 0x21 && len(b) >= 36:
		client, _ = netip.AddrFromSlice(b[:16])
		return client.Unmap(), true
	case family == 0x31 && len(b) >= 216: // of a Unix socket
		return trustedProxyAddr.Addr(), true
	}
	return client, false
}
