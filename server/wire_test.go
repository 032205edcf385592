package server

import (
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
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

// wireOver makes a wire in clear over one end of a pair.
func wireOver(t *testing.T, limits Limits) (w *wire, client net.Conn) {
	raw, client := tcpPair(t)
	s := &service{config: &Config{MessageSizeLimit: 1 << 20}, listener: &Listener{}, limits: limits, linger: newLingering()}
	s.log = discardLog()
	c := newConn(raw, s)
	c.admitted, c.remember, c.closed = func() {}, func() {}, func() {}
	return &wire{conn: c, service: s}, client
}

func roomy() Limits {
	return Limits{LoginCommandTimeout: time.Minute, LoginTime: time.Minute, DataTimeout: time.Minute, RefusedCommands: 20}
}

// lines reads what the wire hands out until it ends, piece by piece.
func lines(w *wire, room int) (pieces []string, err error) {
	p := make([]byte, room)
	for {
		n, err := w.Read(p)
		if err != nil {
			return pieces, err
		}
		pieces = append(pieces, string(p[:n]))
	}
}

// TestWireLines: one line at a time, however they come; and what the end of the
// connection cuts short is none.
func TestWireLines(t *testing.T) {
	w, client := wireOver(t, roomy())
	go func() {
		for _, part := range []string{"NOOP\r\nRSET\r\nNO", "O", "P\r\n", "RSET\n\r\n" + "VRFY 0123456789\r\nQU", "IT"} {
			_, _ = io.WriteString(client, part)
			time.Sleep(10 * time.Millisecond)
		}
		_ = client.Close()
	}()
	got, err := lines(w, 12)
	want := []string{"NOOP\r\n", "RSET\r\n", "NOOP\r\n", "RSET\n", "\r\n", "VRFY 0123456", "789\r\n"}
	if err != io.EOF || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

// TestWireChunks: no piece belongs to a line and to a chunk, or to two lines,
// however little room there is.
func TestWireChunks(t *testing.T) {
	said := []string{"BDAT 4\r\n", "NOOP", "BDAT  12 LAST\r\n", "BDAT 9\r\nQUIT", "BDAT 0\r\n", "BDAT x\r\n", "RSET\r\n"}
	for room := 1; room < 40; room++ {
		w, client := wireOver(t, roomy())
		_, _ = io.WriteString(client, strings.Join(said, ""))
		_ = client.(*net.TCPConn).CloseWrite()
		got, err := lines(w, room)
		if err != io.EOF {
			t.Errorf("in pieces of %d: %v", room, err)
		}
		for _, want := range said {
			whole := ""
			for len(whole) < len(want) && len(got) > 0 {
				whole, got = whole+got[0], got[1:]
			}
			if whole != want {
				t.Fatalf("in pieces of %d: %q, want %q", room, whole, want)
			}
		}
	}
}

func TestWireEndlessLine(t *testing.T) {
	for bytes, want := range map[int]error{maxCommand: io.EOF, maxCommand + 4096: smtp.ErrTooLongLine} {
		w, client := wireOver(t, roomy())
		go func() {
			_, _ = client.Write(make([]byte, bytes))
			_ = client.(*net.TCPConn).CloseWrite()
		}()
		for range 2 { // for good
			if got, err := lines(w, 4096); len(got) > 0 || err != want {
				t.Errorf("of %d bytes: %q, %v", bytes, got, err)
			}
		}
	}
}

// TestWireExpired: a deadline that has passed is final, even if the client has
// sent something meanwhile and the server sets a new one.
func TestWireExpired(t *testing.T) {
	limits := roomy()
	limits.LoginCommandTimeout = 20 * time.Millisecond
	w, client := wireOver(t, limits)
	_ = w.SetReadDeadline(time.Now().Add(time.Hour)) // strangers have less
	if _, err := w.Read(make([]byte, 1)); !timedOut(err) {
		t.Fatalf("the first read: %v", err)
	}
	_, _ = io.WriteString(client, "NOOP\r\n")
	_ = w.SetReadDeadline(time.Now().Add(time.Hour))
	if n, err := w.Read(make([]byte, 1)); n != 0 || !timedOut(err) {
		t.Errorf("the second read: %d, %v", n, err)
	}
}

// TestWireFarewell: the last line comes behind the replies that were held back,
// once, and then there is nothing more to read, whatever the client has sent.
func TestWireFarewell(t *testing.T) {
	w, client := wireOver(t, roomy())
	_, _ = io.WriteString(client, "NOOP\r\nNOOP\r\n")
	if _, err := w.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, "250 Ok\r\n")
	w.hangUp("421 4.7.0 first")
	w.hangUp("421 4.7.0 second")
	if n, err := w.Read(make([]byte, 100)); n != 0 || err != io.EOF {
		t.Errorf("Read: %d, %v", n, err)
	}
	_ = w.Close()
	if said, _ := io.ReadAll(client); string(said) != "250 Ok\r\n421 4.7.0 first\r\n" {
		t.Errorf("the client sees %q", said)
	}
}

// TestCommandIsKeptAlone: what is remembered of the last command is its name, and
// not, with it, the line and the password there.
func TestCommandIsKeptAlone(t *testing.T) {
	const size = 8 << 20
	before := heapInUse()
	verb, _ := splitCommand(append([]byte("AUTH PLAIN "), make([]byte, size)...))
	if kept := heapInUse() - before; verb != "AUTH" || kept > size/2 {
		t.Errorf("%q keeps %d bytes", verb, kept)
	}
	runtime.KeepAlive(verb)
}
