package app_test

import (
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/cmd/postern/internal/apptest"
	"postern/cmd/postern/internal/config"
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

// The limits of the unit are above what the defaults need together, and large messages are staged
// on disk.
func TestLimitsOfTheUnit(t *testing.T) {
	unit := apptest.ReadFile(t, "../../../../docs/systemd/postern.service")
	setting := func(name string) string {
		m := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(unit)
		if m == nil {
			t.Fatalf("the unit has no %s", name)
		}
		return m[1]
	}
	gib, err := strconv.ParseInt(strings.TrimSuffix(setting("MemoryMax"), "G"), 10, 64)
	kit.Must(t, err)
	const (
		connection = 64 << 10
		hashes     = 1<<30 + 8*128<<20 // the bounds of package hash, on 8 processors
	)
	defaults := config.Default().Server
	if need := int64(defaults.StageMemory) + int64(defaults.Limits.Connections)*connection + hashes; gib<<30 < need*5/4 { // garbage
		t.Errorf("MemoryMax is %d GiB, and the defaults need %d MiB", gib, need>>20)
	}
	if tasks, err := strconv.Atoi(setting("TasksMax")); err != nil || tasks < 1000 {
		t.Errorf("TasksMax is %d, %v", tasks, err)
	}
	t.Setenv("CACHE_DIRECTORY", "/var/cache/"+setting("CacheDirectory"))
	cfg := config.Default()
	if got := cfg.StageFolder(); got != "/var/cache/postern" {
		t.Errorf("large messages are in %s", got)
	}
	if cfg.Server.StageDir = "/srv/stage"; cfg.StageFolder() != "/srv/stage" {
		t.Errorf("server.stage_dir is not used")
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
