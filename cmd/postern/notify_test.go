package main

import (
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/test/kit"
)

// A fakeManager receives the messages to systemd.
type fakeManager struct {
	conn *net.UnixConn
}

func startManager(t *testing.T) *fakeManager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	kit.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &fakeManager{conn}
}

// want waits for a message with this first line and returns it. It skips those of the
// watchdog.
func (m *fakeManager) want(t *testing.T, first string) string {
	t.Helper()
	buf := make([]byte, 4096)
	kit.Must(t, m.conn.SetReadDeadline(time.Now().Add(kit.Patience)))
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %s: %v", first, err)
		}
		got := string(buf[:n])
		if strings.HasPrefix(got, first+"\n") || got == first {
			return got
		}
		if got != "WATCHDOG=1" {
			t.Fatalf("got %q, want %s", got, first)
		}
	}
}

func TestSystemdNotifications(t *testing.T) {
	m := startManager(t)
	s := startTestServer(t)
	m.want(t, "READY=1")

	s.reload(t, "msg=reloaded")
	if got := m.want(t, "RELOADING=1"); !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[1-9]\d+$`).MatchString(got) {
		t.Errorf("reloading: %q", got)
	}
	m.want(t, "READY=1")

	s.configure(t, "no_such_key = 1\n")
	s.reload(t, "reload refused")
	m.want(t, "RELOADING=1")
	if got := m.want(t, "READY=1"); !strings.Contains(got, "STATUS=serving; the last reload was refused") {
		t.Errorf("after a refused reload: %q", got)
	}

	s.signals <- syscall.SIGTERM
	m.want(t, "STOPPING=1")
}

func TestWatchdog(t *testing.T) {
	m := startManager(t)
	t.Setenv("WATCHDOG_USEC", "100000")
	startTestServer(t)
	m.want(t, "READY=1")
	for range 3 {
		m.want(t, "WATCHDOG=1")
	}
}

func TestInvalidWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "soon")
	s := startTestServer(t)
	kit.Must(t, s.submit(t, "alice", "right"))
	if !strings.Contains(s.log.String(), `msg="no watchdog"`) {
		t.Errorf("the log lacks that:\n%s", s.log.String())
	}
}
