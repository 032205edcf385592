package pam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"postern/server/auth"
)

// The helper that "postern serve" starts has no named socket, so no other process can
// connect to it, and nothing is written to the disk. A pair of sockets, the control
// connection, joins the two processes. For each request the store creates another pair, and
// passes one end of it over the control connection.

const (
	// controlFD is the helper's descriptor of the control connection.
	controlFD = 3

	// stopTime is how long Close waits for the end of a helper.
	stopTime = 5 * time.Second

	// passTime is how long one attempt to pass a descriptor waits, before ctx is checked.
	passTime = 100 * time.Millisecond
)

// errHelperGone is the error of all requests after the end of the helper.
var errHelperGone = errors.New("the PAM helper has ended, and only root can start it again: restart postern")

// Started is a helper that this process has started. Its methods may be called by many
// goroutines at once.
type Started struct {
	control *net.UnixConn
	turn    chan struct{} // holds a token while a goroutine writes to control
	ended   chan struct{} // closed when the helper has ended
	closing chan struct{} // closed by Close
	events  auth.Events
}

// StartHelper starts cmd, whose process serves [Inherited]. The caller must be root, and may
// drop root privileges afterwards; the helper keeps them, until Close or the end of this
// process. The helper gets its command line and the descriptors of cmd only.
func StartHelper(cmd *exec.Cmd, events auth.Events) (*Started, error) {
	switch {
	case !Available:
		return nil, ErrNotBuilt
	case os.Geteuid() != 0:
		return nil, errors.New("the PAM helper must be started by root")
	}
	return startHelper(cmd, events)
}

func startHelper(cmd *exec.Cmd, events auth.Events) (*Started, error) {
	ours, theirs, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, fmt.Errorf("cannot start the PAM helper: %w", err)
	}
	defer theirs.Close()
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env, cmd.Dir = childEnv, "/"
	// Signals of a terminal go to this process, which ends the helper with Close.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the PAM helper: %w", err), ours.Close())
	}
	s := &Started{control: ours, turn: make(chan struct{}, 1), ended: make(chan struct{}), closing: make(chan struct{}), events: events}
	go s.watch(cmd)
	return s, nil
}

// watch waits for the end of the helper.
func (s *Started) watch(cmd *exec.Cmd) {
	defer close(s.ended)
	err := cmd.Wait()
	select {
	case <-s.closing:
	default:
		s.events.PAMHelperEnded(err)
	}
}

// Dial is a [Dialer].
func (s *Started) Dial(ctx context.Context) (net.Conn, error) {
	ours, theirs, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := s.pass(ctx, theirs); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return ours, nil
}

// pass sends a descriptor to the helper. It waits while the helper does not accept more of
// them.
func (s *Started) pass(ctx context.Context, f *os.File) error {
	select {
	case <-s.ended:
		return errHelperGone
	case <-ctx.Done():
		return context.Cause(ctx)
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	}
	// A message is sent as a whole or not at all, so the write can be repeated.
	for ctx.Err() == nil {
		_ = s.control.SetWriteDeadline(time.Now().Add(passTime)) // if it fails, the next line fails, too
		_, _, err := s.control.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%w (%w)", errHelperGone, err)
		}
	}
	return fmt.Errorf("the PAM helper does not accept requests: %w", context.Cause(ctx))
}

// Close ends the helper and its children, and waits for stopTime at most. It must be called
// once.
func (s *Started) Close() error {
	close(s.closing)
	err := s.control.Close()
	select {
	case <-s.ended:
		return err
	case <-time.After(stopTime):
		return errors.Join(err, fmt.Errorf("the PAM helper has not ended within %v", stopTime))
	}
}

// socketPair returns two connected sockets: one to use here, and one to pass on.
func socketPair(kind int) (*net.UnixConn, *os.File, error) {
	// The lock prevents a child that is started concurrently from inheriting them.
	syscall.ForkLock.RLock()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socketpair")
	ours, err := unixConn(fds[0])
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// unixConn returns a connection that owns the descriptor.
func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "unix")
	defer f.Close() // FileConn duplicates it
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("not a Unix socket"), conn.Close())
	}
	return u, nil
}

// Inherited returns the listener of a process that [StartHelper] has started. Its Accept
// returns io.EOF when the process that started it has ended.
func Inherited() (net.Listener, error) {
	unix.CloseOnExec(controlFD)
	if err := CloseInherited(controlFD + 1); err != nil {
		return nil, err
	}
	control, err := unixConn(controlFD)
	if err != nil {
		return nil, fmt.Errorf("pam: only postern serve can start this process: %w", err)
	}
	return &inherited{control}, nil
}

// An inherited listener receives connections as descriptors.
type inherited struct{ *net.UnixConn }

// Accept implements net.Listener.
func (l *inherited) Accept() (net.Conn, error) {
	rights := make([]byte, unix.CmsgSpace(4))
	n, size, _, _, err := l.ReadMsgUnix(make([]byte, 1), rights)
	switch {
	case err != nil:
		return nil, err
	case n == 0:
		return nil, io.EOF
	}
	return passedConn(rights[:size])
}

// Addr implements net.Listener.
func (l *inherited) Addr() net.Addr { return &net.UnixAddr{Name: "inherited", Net: "unixpacket"} }

// passedConn returns the only descriptor of a message as a connection. It closes the
// descriptors of a message with several, which a store never sends.
func passedConn(rights []byte) (net.Conn, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range messages {
		passed, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // another kind of message
		}
		fds = append(fds, passed...)
	}
	if len(fds) == 1 {
		return unixConn(fds[0])
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return nil, fmt.Errorf("a message with %d descriptors, want 1", len(fds))
}
