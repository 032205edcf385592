package server

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// countingConn counts the packets that the server makes.
type countingConn struct {
	net.Conn
	writes atomic.Int32
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
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

// countedClient is a client of d whose server end counts.
func countedClient(t *testing.T, d *stand) (*client, *countingConn) {
	raw, end := tcpPair(t)
	counted := &countingConn{Conn: raw}
	d.server.doors[0].welcome(counted)
	mode := d.parts.Listeners[0].Mode
	return newClient(end.(*net.TCPConn), mode), counted
}

// TestRepliesAreHeldBack: one command, or one batch of pipelined ones, costs one
// packet, however many lines the answer has.
func TestRepliesAreHeldBack(t *testing.T) {
	c, counted := countedClient(t, newStand(t, defaultSettings()))
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
	if err := c.converse("", "220"); err != nil {
		t.Fatal(err)
	}
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

// connOver makes a conn over one end of a pair.
func connOver(t *testing.T, limits Limits) (c *conn, client net.Conn) {
	raw, client := tcpPair(t)
	s := &service{config: &Config{MessageSizeLimit: 1 << 20}, listener: &Listener{}, limits: limits}
	s.log = discardLog()
	c = newConn(raw, s)
	c.admitted, c.closed = func() {}, func() {}
	return c, client
}

func roomy() Limits {
	return Limits{LoginCommandTimeout: time.Minute, LoginTime: time.Minute, DataTimeout: time.Minute}
}

func TestConnQuota(t *testing.T) {
	for _, test := range []struct {
		name     string
		loggedIn bool
		replies  bool
		bytes    int
		want     error
	}{
		{"little", false, false, quotaBeforeLogin, nil},
		{"too much", false, false, quotaBeforeLogin + 1, errQuota},
		{"with replies in between", false, true, 2 * quotaBeforeLogin, nil},
		{"logged in", true, false, 10 * quotaBeforeLogin, nil},
		{"logged in, too much", true, false, 2<<20 + quotaBeforeLogin + 1, errQuota},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, client := connOver(t, roomy())
			if test.loggedIn {
				c.login()
			}
			go func() { _, _ = client.Write(make([]byte, test.bytes)) }()
			if err := readAll(c, test.bytes, test.replies); !errors.Is(err, test.want) {
				t.Errorf("after %d bytes: %v", test.bytes, err)
			}
		})
	}
}

// readAll reads n bytes, and answers in between if so told.
func readAll(c *conn, n int, replies bool) error {
	buf := make([]byte, 4096)
	for n > 0 {
		got, err := c.Read(buf)
		if err != nil {
			return err
		}
		n -= got
		if replies {
			_, _ = io.WriteString(c, "250 Ok\r\n")
		}
	}
	return nil
}

// TestConnExpired: a deadline that has passed is final, even if the client has
// sent something meanwhile and the server sets a new one.
func TestConnExpired(t *testing.T) {
	limits := roomy()
	limits.LoginCommandTimeout = 20 * time.Millisecond
	c, client := connOver(t, limits)
	_ = c.SetReadDeadline(time.Now().Add(time.Hour)) // strangers have less
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the first read: %v", err)
	}
	_, _ = io.WriteString(client, "NOOP\r\n")
	_ = c.SetReadDeadline(time.Now().Add(time.Hour))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the second read: %d, %v", n, err)
	}
}

// TestConnFarewell: the last line comes behind the replies that were held back,
// once, and then there is nothing more to read.
func TestConnFarewell(t *testing.T) {
	c, client := connOver(t, roomy())
	_, _ = io.WriteString(client, "NOOP\r\n")
	_, _ = io.WriteString(c, "250 Ok\r\n")
	c.hangUp("421 4.7.0 first")
	c.hangUp("421 4.7.0 second")
	if n, err := c.Read(make([]byte, 100)); n != 0 || err != io.EOF {
		t.Errorf("Read: %d, %v", n, err)
	}
	_ = c.Close()
	if said, _ := io.ReadAll(client); string(said) != "250 Ok\r\n421 4.7.0 first\r\n" {
		t.Errorf("the client sees %q", said)
	}
}

// TestConnNothingInClear: after the 220 to STARTTLS only TLS records go out.
func TestConnNothingInClear(t *testing.T) {
	c, client := connOver(t, roomy())
	for _, line := range []string{"220 mail.example.org\r\n", "250 2.0.0 Ok\r\n", "220 2.0.0 Ready to start TLS\r\n", "\x15\x03\x03\x00\x02\x02\x28"} {
		if _, err := io.WriteString(c, line); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	if _, err := io.WriteString(c, "550 Handshake error\r\n"); err == nil {
		t.Error("a reply in clear was taken")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	_ = c.Close()
	said, _ := io.ReadAll(client)
	if !strings.HasSuffix(string(said), "\x02\x28") {
		t.Errorf("the client sees %q", said)
	}
}

// TestConnEnded: an orderly close and a byte that waits are told apart from a
// client that waits for its reply.
func TestConnEnded(t *testing.T) {
	c, _ := connOver(t, roomy())
	for _, test := range []struct {
		name            string
		top             *fakeTop
		gone, pipelined bool
	}{
		{"waits", &fakeTop{Conn: c, err: os.ErrDeadlineExceeded}, false, false},
		{"has sent more", &fakeTop{Conn: c, n: 3, err: os.ErrDeadlineExceeded}, false, true},
		{"has sent more and closed", &fakeTop{Conn: c, n: 3, err: io.EOF}, false, true},
		{"has closed", &fakeTop{Conn: c, err: io.EOF}, true, false},
		{"is broken", &fakeTop{Conn: c, err: net.ErrClosed}, true, false},
	} {
		if gone, pipelined := c.ended(test.top); gone != test.gone || pipelined != test.pipelined {
			t.Errorf("%s: gone %v, pipelined %v", test.name, gone, pipelined)
		}
		if test.top.n > 0 {
			t.Errorf("%s: half a command is left", test.name)
		}
	}
}

// fakeTop is a TLS connection as far as ended looks at it.
type fakeTop struct {
	net.Conn
	n   int   // records that wait
	err error // behind them
}

func (f *fakeTop) Read([]byte) (int, error) {
	if f.n == 0 {
		return 0, f.err
	}
	f.n--
	return 1, nil
}

func TestNewID(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		id := newID()
		if len(id) != 12 || strings.ContainsFunc(id, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '2' || r > '7') }) || seen[id] {
			t.Fatalf("an odd id: %q", id)
		}
		seen[id] = true
	}
}
