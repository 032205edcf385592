package fileperm

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestExplainDial(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(l.Close(), os.Chmod(stale, 0o640)); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		filepath.Join(dir, "gone", "socket"): filepath.Join(dir, "gone") + " is not there",
		stale:                                "mode 0640",
	} {
		_, err := net.Dial("unix", path)
		if got := ExplainDial(err); !strings.Contains(got.Error(), says) || !errors.Is(got, err) {
			t.Errorf("%s: %v", path, got)
		}
	}
	forbidden := &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: stale, Net: "unix"}, Err: syscall.EACCES}
	if got := ExplainDial(forbidden); !strings.Contains(got.Error(), "mode 0640") {
		t.Errorf("forbidden: %v", got)
	}
	other := errors.New("anything else")
	if got := ExplainDial(other); got != other {
		t.Errorf("%v", got)
	}
}
