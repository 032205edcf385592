package app_test

import (
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/cmd/postern/internal/apptest"
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
	s := apptest.Start(t)
	m.want(t, "READY=1")

	s.Reload(t, "msg=reloaded")
	if got := m.want(t, "RELOADING=1"); !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[1-9]\d+$`).MatchString(got) {
		t.Errorf("reloading: %q", got)
	}
	m.want(t, "READY=1")

	s.Configure(t, "no_such_key = 1\n")
	s.Reload(t, "reload refused")
	m.want(t, "RELOADING=1")
	if got := m.want(t, "READY=1"); !strings.Contains(got, "STATUS=serving; the last reload was refused") {
		t.Errorf("after a refused reload: %q", got)
	}

	s.Signals <- syscall.SIGTERM
	m.want(t, "STOPPING=1")
}

func TestWatchdog(t *testing.T) {
	m := startManager(t)
	t.Setenv("WATCHDOG_USEC", "100000")
	apptest.Start(t)
	m.want(t, "READY=1")
	for range 3 {
		m.want(t, "WATCHDOG=1")
	}
}

func TestInvalidWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "soon")
	s := apptest.Start(t)
	kit.Must(t, s.Submit(t, "alice", "right"))
	if !strings.Contains(s.Log.String(), `msg="no watchdog"`) {
		t.Errorf("the log lacks that:\n%s", s.Log.String())
	}
}
