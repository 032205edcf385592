package kit

import (
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
)

func TestGlob(t *testing.T) {
	for _, test := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"a", "a", true},
		{"a", "ab", false},
		{"*", "", true},
		{"a*", "a", true},
		{"a*", "ba", false},
		{"*a", "aba", true},
		{"*a", "ab", false},
		{"a*a", "a", false}, // one "a" does not match twice
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-c-b", false},
		{"*b*", "abc", true},
	} {
		if got := Glob(test.pattern, test.s); got != test.want {
			t.Errorf("Glob(%q, %q) = %v", test.pattern, test.s, got)
		}
	}
}

func TestLogBuffer(t *testing.T) {
	var b LogBuffer
	if b.Lines() != nil || b.Count("") != 0 || b.First("") != "" {
		t.Errorf("an empty buffer has the lines %q", b.Lines())
	}
	var all sync.WaitGroup
	for n := range 10 {
		all.Go(func() { fmt.Fprintf(&b, "msg=refused code=55%d\n", n) })
	}
	all.Wait()
	if n := b.Count("msg=refused*code=55"); n != 10 {
		t.Errorf("Count = %d, want 10", n)
	}
	if line := b.First("code=557"); line != "msg=refused code=557" || !slices.Contains(b.Lines(), line) {
		t.Errorf("First = %q of %q", line, b.Lines())
	}
	if line := b.First("code=560"); line != "" {
		t.Errorf("First = %q, want none", line)
	}
	if text := b.Take(); len(text) != 10*len("msg=refused code=550\n") || b.String() != "" {
		t.Errorf("Take = %q, and leaves %q", text, b.String())
	}
}

// A server may start and stop several times on its port.
func TestAddr(t *testing.T) {
	addr := Addr(t)
	for range 3 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Fatal("connected before the server listens")
		}
		l, err := net.Listen("tcp", addr)
		Must(t, err)
		c, err := net.Dial("tcp", addr)
		Must(t, err)
		server, err := l.Accept()
		Must(t, err)
		server.Close() // first, so that TIME_WAIT is on the side of the server
		c.Close()
		l.Close()
	}
}

// Neither a listener nor a connection at any port gets a reserved one.
func TestAddrIsReserved(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("ports cannot be reserved")
	}
	reserved := map[string]bool{}
	for range 200 {
		addr := Addr(t)
		if reserved[addr] {
			t.Fatalf("%s twice", addr)
		}
		reserved[addr] = true
	}
	for range 2000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		Must(t, err)
		c, err := net.Dial("tcp", l.Addr().String())
		Must(t, err)
		if reserved[l.Addr().String()] || reserved[c.LocalAddr().String()] {
			t.Errorf("%s or %s is reserved", l.Addr(), c.LocalAddr())
		}
		_ = c.(*net.TCPConn).SetLinger(0) // leaves no TIME_WAIT
		c.Close()
		l.Close()
	}
}
