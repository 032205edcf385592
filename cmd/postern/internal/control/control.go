// Package control lets commands ask the running server. The server listens on a Unix socket
// that only its own user and root may use (mode 0600).
//
// A client sends one line with a command, reads the answer until the server closes the
// connection, and so asks one question per connection. The answer is lines "key value"; its
// first line is "ok" or "error TEXT":
//
//	health
//	ok
//	config /etc/postern/config.toml
//	listener starttls :587
//
// The socket is opened before the sandbox is entered and root is dropped. A socket that a
// server has left behind after a crash is replaced. While another server listens at the same
// path, [Listen] fails: two servers never share a path.
//
// Bounds: a command of 256 bytes, an answer of 64 KiB, 8 connections at once, 2 seconds to
// read a command and to write an answer.
package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"postern/internal/fileperm"
)

const (
	maxCommand = 256      // bytes
	maxAnswer  = 64 << 10 // bytes
	maxConns   = 8        // further ones wait in the kernel
	connTime   = 2 * time.Second
	lockTime   = 2 * time.Second // another server holds the lock for less than a millisecond
	lockPoll   = 20 * time.Millisecond
)

// A Handler returns the lines of an answer after "ok". It may be called by several
// goroutines at once.
type Handler func() ([]string, error)

// A Server answers the clients of one socket. It must be closed.
type Server struct {
	socket   net.Listener
	handlers map[string]Handler
	slots    chan struct{}
	work     sync.WaitGroup
}

// ErrInUse is wrapped by the error of Listen if another server listens at the path.
var ErrInUse = errors.New("another server has this control socket")

// Listen opens the socket at path for the user uid and the group gid, which are -1 for those
// of the process. It does not answer before [Server.Serve].
func Listen(path string, uid, gid int) (*Server, error) {
	dir := filepath.Dir(path)
	if err := fileperm.Check(dir, fileperm.Public); err != nil {
		return nil, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, explainFolder(dir, err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The mode of the socket before bind becomes that of the file (Linux, unix(7)).
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.Fchmod(int(fd), 0o600) })
	}}
	l, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, explainFolder(dir, err)
	}
	if runtime.GOOS != "linux" {
		err = os.Chmod(path, 0o600)
	}
	if err == nil && (uid >= 0 || gid >= 0) {
		err = os.Lchown(path, uid, gid) // the user of the folder may put a link there meanwhile
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Server{socket: l, slots: make(chan struct{}, maxConns)}, nil
}

// lock excludes another server that starts at the same time: it could remove the new socket
// as a stale one. Every user who may read the folder can hold the lock, so the wait for it is
// bounded, and the start goes on without it.
func lock(dir string) (unlock func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(lockTime); ; time.Sleep(lockPoll) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil, errors.Is(err, unix.EWOULDBLOCK) && time.Now().After(until):
			return f.Close, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(err, f.Close())
		}
	}
}

// removeStale removes a socket that no process listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s exists and is not a socket; set server.control to another path, or remove it", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(inUse(path), conn.Close())
	case errors.Is(err, syscall.EAGAIN): // it listens, and others wait for it already
		return inUse(path)
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("cannot find out whether a server listens at %s: %w", path, err)
	}
	return os.Remove(path)
}

func inUse(path string) error {
	return fmt.Errorf("%w: %s; give each server a path of its own in server.control", ErrInUse, path)
}

func explainFolder(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the folder of server.control does not exist; create it for the user of the server, or set RuntimeDirectory= in the unit of systemd: %w", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("user %s cannot create a socket in %s; run as root: chown %[1]s %[2]s: %w", fileperm.UserName(os.Geteuid()), dir, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s is read-only; mount a tmpfs there, or set server.control to a path in a folder that can be written: %w", dir, err)
	}
	return err
}

// Serve answers clients with the handlers until Close.
func (s *Server) Serve(handlers map[string]Handler) {
	s.handlers = handlers
	s.work.Go(func() {
		for {
			s.slots <- struct{}{}
			conn, err := s.socket.Accept()
			if err == nil {
				s.work.Go(func() { s.answer(conn) })
				continue
			}
			<-s.slots
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(100 * time.Millisecond) // out of file descriptors, most likely
		}
	})
}

// Close removes the socket, and returns after the last answer.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	err := s.socket.Close()
	s.work.Wait()
	if errors.Is(err, fs.ErrPermission) { // from the sandbox, or without root; the next start replaces the socket
		err = nil
	}
	return err
}

// answer serves one client.
func (s *Server) answer(conn net.Conn) {
	defer func() { <-s.slots }()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(connTime)) // fails only on a closed connection
	line, err := bufio.NewReader(io.LimitReader(conn, maxCommand)).ReadString('\n')
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, s.reply(strings.TrimRight(line, "\r\n"))) // the client may be gone
}

func (s *Server) reply(command string) string {
	handler := s.handlers[command]
	if handler == nil {
		return "error unknown command\n"
	}
	lines, err := handler()
	if err != nil {
		return "error " + oneLine(err.Error()) + "\n"
	}
	var b strings.Builder
	b.WriteString("ok\n")
	for _, line := range lines {
		if line = oneLine(line) + "\n"; b.Len()+len(line) <= maxAnswer {
			b.WriteString(line)
		}
	}
	return b.String()
}

func oneLine(s string) string { return strings.Join(strings.FieldsFunc(s, isBreak), "; ") }

func isBreak(r rune) bool { return r == '\n' || r == '\r' }
