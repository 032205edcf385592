package control

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"postern/test/kit"
)

func start(t *testing.T, path string) *Server {
	t.Helper()
	s, err := Listen(path, -1, -1)
	kit.Must(t, err)
	s.Serve(map[string]Handler{
		"health": func() ([]string, error) { return []string{"config /a b", "note two\nlines"}, nil },
		"broken": func() ([]string, error) { return nil, errors.New("some\nreason") },
		"long":   func() ([]string, error) { return []string{strings.Repeat("x", maxAnswer), "short"}, nil },
	})
	t.Cleanup(func() { s.Close() })
	return s
}

func TestAsk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	start(t, path)
	for range 2 * maxConns {
		lines, err := Ask(t.Context(), path, "health")
		if err != nil || !slices.Equal(lines, []string{"config /a b", "note two; lines"}) {
			t.Fatalf("%q, %v", lines, err)
		}
	}
	if lines, err := Ask(t.Context(), path, "long"); err != nil || !slices.Equal(lines, []string{"short"}) {
		t.Errorf("long: %d lines, %v", len(lines), err)
	}
	for command, want := range map[string]string{"broken": "some; reason", "other": "unknown command", "": "unknown command", strings.Repeat("x", 2*maxCommand): "answer"} {
		if _, err := Ask(t.Context(), path, command); err == nil || !strings.Contains(err.Error(), want) && len(command) < maxCommand {
			t.Errorf("%.20q: %v, want %q", command, err, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Clients that send nothing occupy their slots for a bounded time only.
func TestSilentClients(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	start(t, path)
	for range maxConns {
		conn, err := net.Dial("unix", path)
		kit.Must(t, err)
		defer conn.Close()
	}
	if _, err := Ask(t.Context(), path, "health"); err != nil {
		t.Error(err)
	}
}

func TestTwoServers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	first := start(t, path)
	if _, err := Listen(path, -1, -1); !errors.Is(err, ErrInUse) {
		t.Errorf("a second server: %v", err)
	}
	if _, err := Ask(t.Context(), path, "health"); err != nil {
		t.Errorf("the first one afterwards: %v", err)
	}
	kit.Must(t, first.Close())
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := Ask(t.Context(), path, "health"); !errors.Is(err, ErrNoServer) {
		t.Errorf("after its end: %v", err)
	}
	start(t, path)
}

// Of servers that start at once after a crash, one replaces the socket.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	kit.StaleSocket(t, path, 0o600)
	if _, err := Ask(t.Context(), path, "health"); !errors.Is(err, ErrNoServer) {
		t.Errorf("stale: %v", err)
	}
	var starts sync.WaitGroup
	won := make(chan *Server, 8)
	for range cap(won) {
		starts.Go(func() {
			s, err := Listen(path, -1, -1)
			if err == nil {
				won <- s
			} else if !errors.Is(err, ErrInUse) {
				t.Error(err)
			}
		})
	}
	starts.Wait()
	if len(won) != 1 {
		t.Fatalf("%d servers have the socket", len(won))
	}
	kit.Must(t, (<-won).Close())
}

// A user who may read the folder can hold its lock, and does not prevent the start.
func TestForeignLock(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Open(dir)
	kit.Must(t, err)
	defer f.Close()
	kit.Must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	start(t, filepath.Join(dir, "control"))
}

// A program that listens and does not accept has the path, too.
func TestFullQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	kit.Must(t, err)
	defer unix.Close(fd)
	kit.Must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	kit.Must(t, unix.Listen(fd, 0))
	for {
		conn, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	if _, err := Listen(path, -1, -1); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
}

func TestRefusedPaths(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	kit.Must(t, os.WriteFile(file, []byte("content"), 0o600))
	open := filepath.Join(dir, "open")
	kit.Must(t, os.Mkdir(open, 0o700))
	kit.Must(t, os.Chmod(open, 0o777))
	for path, want := range map[string]string{
		file:                                  "not a socket",
		filepath.Join(dir, "gone", "control"): "does not exist",
		filepath.Join(open, "control"):        "",
	} {
		if _, err := Listen(path, -1, -1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "content" {
		t.Errorf("the file: %q, %v", text, err)
	}
}

// A server that does not answer is reported when ctx ends.
func TestNoAnswer(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "control"))
	kit.Must(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = conn.Read(make([]byte, maxCommand))
			cancel()
			t.Cleanup(func() { conn.Close() })
		}
	}()
	if _, err := Ask(ctx, l.Addr().String(), "health"); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
}
