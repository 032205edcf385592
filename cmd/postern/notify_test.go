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

// A fakeManager hears what systemd would.
type fakeManager struct {
	conn *net.UnixConn
}

func startManager(t *testing.T) *fakeManager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &fakeManager{conn}
}

// hears waits for a message that begins with its first line, past those of
// the watchdog, and returns it.
func (m *fakeManager) hears(t *testing.T, first string) string {
	t.Helper()
	buf := make([]byte, 4096)
	must(t, m.conn.SetReadDeadline(time.Now().Add(kit.Patience)))
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %s: %v", first, err)
		}
		said := string(buf[:n])
		if strings.HasPrefix(said, first+"\n") || said == first {
			return said
		}
		if said != "WATCHDOG=1" {
			t.Fatalf("heard %q, want %s", said, first)
		}
	}
}

func TestManagerIsTold(t *testing.T) {
	m := startManager(t)
	s := startServing(t)
	m.hears(t, "READY=1")

	s.reload(t, "msg=reloaded")
	if said := m.hears(t, "RELOADING=1"); !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[1-9]\d+$`).MatchString(said) {
		t.Errorf("reloading: %q", said)
	}
	m.hears(t, "READY=1")

	s.configure(t, "no_such_key = 1\n")
	s.reload(t, "reload refused")
	m.hears(t, "RELOADING=1")
	if said := m.hears(t, "READY=1"); !strings.Contains(said, "STATUS=serving; the last reload was refused") {
		t.Errorf("after a reload that was refused: %q", said)
	}

	s.signals <- syscall.SIGTERM
	m.hears(t, "STOPPING=1")
}

func TestWatchdogIsFed(t *testing.T) {
	m := startManager(t)
	t.Setenv("WATCHDOG_USEC", "100000")
	startServing(t)
	m.hears(t, "READY=1")
	for range 3 {
		m.hears(t, "WATCHDOG=1")
	}
}

func TestWatchdogThatMakesNoSense(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "soon")
	s := startServing(t)
	must(t, s.submit(t, "alice", "right"))
	if !strings.Contains(s.log.String(), `msg="no watchdog"`) {
		t.Errorf("the log does not tell:\n%s", s.log.String())
	}
}
