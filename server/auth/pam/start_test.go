package pam

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/server/auth"
	"postern/test/kit"
)

// inheritedHelper is the process that StartHelper starts.
func inheritedHelper() error {
	l, err := Inherited()
	if err != nil {
		return err
	}
	h := NewHelper(HelperConfig{Services: []string{"smtp"}, Processes: 8, Timeout: time.Minute, Child: scripted, Log: quiet()})
	return h.Serve(context.Background(), l)
}

func startInherited(t *testing.T, log *slog.Logger) (*Started, *exec.Cmd, *Store) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "inherited-helper")
	h, err := startHelper(cmd, auth.NewLog(log))
	if err != nil {
		t.Fatal(err)
	}
	return h, cmd, &Store{service: "smtp", dial: h.Dial, where: "the helper"}
}

func TestStartedHelper(t *testing.T) {
	h, _, s := startInherited(t, quiet())
	var clients sync.WaitGroup
	for i := range 40 {
		clients.Go(func() {
			password := []string{"right", "wrong"}[i%2]
			_, err := s.VerifyPassword(t.Context(), peer, "alice", password)
			if f, refused := errors.AsType[*auth.Failure](err); refused != (password == "wrong") || !refused && err != nil {
				t.Errorf("%s: %v, %v", password, f, err)
			}
		})
	}
	clients.Wait()
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.VerifyPassword(t.Context(), peer, "alice", "right"); !errors.Is(err, errHelperGone) {
		t.Errorf("after the end: %v", err)
	}
}

// Close ends the helper and its children.
func TestStartedHelperCloses(t *testing.T) {
	h, _, s := startInherited(t, quiet())
	file := filepath.Join(t.TempDir(), "pid")
	var asking sync.WaitGroup
	asking.Go(func() { _, _ = s.VerifyPassword(t.Context(), peer, "alice", "hang:"+file) })
	waitFor(t, file)
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	asking.Wait()
	wantGone(t, file)
}

// If the helper is killed, its children end, and the event is logged.
func TestStartedHelperKilled(t *testing.T) {
	log := new(kit.LogBuffer)
	h, cmd, s := startInherited(t, log.Logger())
	file := filepath.Join(t.TempDir(), "pid")
	var asking sync.WaitGroup
	asking.Go(func() {
		_, err := s.VerifyPassword(t.Context(), peer, "alice", "hang:"+file)
		if _, ok := errors.AsType[*auth.Unavailable](err); !ok {
			t.Errorf("during a request: %v", err)
		}
	})
	waitFor(t, file)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	asking.Wait()
	wantGone(t, file)
	<-h.ended
	if !strings.Contains(log.String(), "the PAM helper has ended") {
		t.Errorf("log: %s", log)
	}
	if _, err := s.VerifyPassword(t.Context(), peer, "alice", "right"); !errors.Is(err, errHelperGone) {
		t.Errorf("after the end: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

// If the helper does not accept requests, they fail at their deadline.
func TestStartedHelperStops(t *testing.T) {
	h, cmd, s := startInherited(t, quiet())
	if _, err := s.VerifyPassword(t.Context(), peer, "alice", "right"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var asking sync.WaitGroup
	for range 300 {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := s.VerifyPassword(ctx, peer, "alice", "right"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
	}
	asking.Wait()
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := s.VerifyPassword(t.Context(), peer, "alice", "right"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

// An inherited descriptor is closed.
func TestStartedHelperClosesInherited(t *testing.T) {
	r, w := newPipe(t)
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	h, _, s := startInherited(t, quiet())
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.VerifyPassword(t.Context(), peer, "alice", "right"); err != nil {
		t.Error(err)
	}
	wantEnd(t, r)
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

// The descriptors of a message with several are closed.
func TestStartedHelperTakesOneDescriptor(t *testing.T) {
	h, _, s := startInherited(t, quiet())
	r1, w1 := newPipe(t)
	r2, w2 := newPipe(t)
	rights := unix.UnixRights(int(w1.Fd()), int(w2.Fd()))
	if _, _, err := h.control.WriteMsgUnix([]byte{0}, rights, nil); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*os.File{w1, w2} {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantEnd(t, r1)
	wantEnd(t, r2)
	if _, err := s.VerifyPassword(t.Context(), peer, "alice", "right"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

func newPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r, w
}

// wantEnd waits for the end of the stream, when no process has its other end open.
func wantEnd(t *testing.T, r *os.File) {
	t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(kit.Patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("a process keeps the descriptor open: %d, %v", n, err)
	}
}
