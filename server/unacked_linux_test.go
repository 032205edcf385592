package server

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// vanish has the kernel throw away all that comes for c, as if its machine had
// gone without a word.
func vanish(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	})
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
}

// A client that has gone without a word is noticed by what it leaves
// unacknowledged, and only then.
func TestGiveUpUnacked(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		lifted    bool // the bound, before anything is written
		gone      bool
		wantError bool
	}{
		{"gone", false, true, true},
		{"gone, and no bound", true, true, false},
		{"there", false, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server, client := tcpPair(t)
			giveUpUnacked(server, 500*time.Millisecond)
			if test.lifted {
				giveUpUnacked(server, 0)
			}
			if test.gone {
				vanish(t, client)
			}
			if _, err := server.Write([]byte("250 2.0.0 Ok\r\n")); err != nil {
				t.Fatal(err)
			}
			wait := 5 * time.Second
			if test.wantError {
				wait = time.Minute
			}
			_ = server.SetReadDeadline(time.Now().Add(wait))
			_, err := server.Read(make([]byte, 1))
			if got := errors.Is(err, unix.ETIMEDOUT); got != test.wantError {
				t.Errorf("reading ended with %v", err)
			}
		})
	}
}
