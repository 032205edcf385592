package smtpd

import (
	"context"
	"errors"
	"io"
	"net"
	"postern/test/kit"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tcpPair returns the two ends of a connection over loopback.
func tcpPair(t *testing.T) (server, client *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = s.Close() })
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

// TestHungUp: the end of a connection is seen although what was sent before is unread.
func TestHungUp(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn) error{
		"FIN": (*net.TCPConn).CloseWrite,
		"RST": func(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) },
	} {
		here, there := tcpPair(t)
		if _, err := there.Write([]byte("something")); err != nil {
			t.Fatal(err)
		}
		if hungUp(here) {
			t.Errorf("%s: it has not come yet", name)
		}
		if err := end(there); err != nil {
			t.Fatal(err)
		}
		kit.Eventually(t, name+" is seen", func() bool { return hungUp(here) })
	}
}

// vanish has the kernel discard everything that comes for c, as if its machine had gone.
func vanish(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
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

// TestGiveUpUnacked: a client that has gone is noticed by what it leaves unacknowledged,
// and only then.
func TestGiveUpUnacked(t *testing.T) {
	for _, test := range []struct {
		name         string
		lifted, gone bool
		want         error
	}{
		{"gone", false, true, unix.ETIMEDOUT},
		{"gone, and no bound", true, true, nil},
		{"there", false, false, nil},
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
			wait := 2 * time.Second
			if test.want != nil {
				wait = time.Minute
			}
			_ = server.SetReadDeadline(time.Now().Add(wait))
			if _, err := server.Read(make([]byte, 1)); errors.Is(err, unix.ETIMEDOUT) != (test.want != nil) {
				t.Errorf("reading ended with %v", err)
			}
		})
	}
}

// TestOnSeenSetsTheTimeout: a reply whose fate matters is given up after a minute, until
// the client is known to have seen it.
func TestOnSeenSetsTheTimeout(t *testing.T) {
	server, client := tcpPair(t)
	timeout := func() (ms int) {
		raw, err := server.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) })
		if err != nil {
			t.Fatal(err)
		}
		return ms
	}
	s := &testSession{commit: func(context.Context) *Reply {
		return &Reply{Code: 250, Lines: []string{"Ok"}, OnSeen: func(bool) {}}
	}}
	p := beginOn(t, server, client, testConfig(), s)
	p.mail()
	p.say("BDAT 0 LAST", "250")
	if ms := timeout(); ms != 60_000 {
		t.Errorf("%d ms after the reply", ms)
	}
	p.say("NOOP", "250")
	if ms := timeout(); ms != 0 {
		t.Errorf("%d ms after the next command", ms)
	}
}

// TestLingerSlots: a connection beyond the slots is closed at once.
func TestLingerSlots(t *testing.T) {
	l := NewLinger()
	l.slots = make(chan struct{}) // none
	server, client := tcpPair(t)
	l.wait(server)
	_ = server.Close()
	if _, err := io.ReadAll(client); err != nil {
		t.Error(err)
	}
}
