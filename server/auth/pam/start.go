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

// The helper that "postern serve" starts has no socket with a name: nobody else
// can find it, and nothing has to be written to the disk. One pair of sockets
// connects the two for good. For each question the asking side makes another
// pair and passes one end of it over the first.

// controlFD is where the helper finds its end of the first pair.
const controlFD = 3

// stopTime is how long Close waits for a helper to end.
const stopTime = 5 * time.Second

// passTime is how long to wait for room before looking whether the client is
// still there.
const passTime = 100 * time.Millisecond

// errHelperGone is told to those who log in from then on.
var errHelperGone = errors.New("the PAM helper has ended, and only root can start it again: restart postern")

// Started is a helper that this process has started. Its methods may be called
// by many goroutines at once.
type Started struct {
	control *net.UnixConn
	turn    chan struct{} // held by the one who writes to control
	ended   chan struct{} // closed when the helper has ended
	closing chan struct{} // closed by Close
	events  auth.Events
}

// StartHelper starts cmd, whose process serves [Inherited]. The caller is root,
// and may give that up at once afterwards: the helper stays what it is, until
// Close or the end of this process. It is told nothing but its command line,
// and inherits no other descriptor than those of cmd.
func StartHelper(cmd *exec.Cmd, events auth.Events) (*Started, error) {
	switch {
	case !Available:
		return nil, ErrNotBuilt
	case os.Geteuid() != 0:
		return nil, errors.New("the PAM helper has to be root")
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
	// Signals from a terminal are for us, who end the helper in our own time.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the PAM helper: %w", err), ours.Close())
	}
	s := &Started{control: ours, turn: make(chan struct{}, 1), ended: make(chan struct{}), closing: make(chan struct{}), events: events}
	go s.watch(cmd)
	return s, nil
}

// watch takes note of the end of the helper.
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

// pass sends a descriptor to the helper. It waits while the helper has more of
// them than it takes.
func (s *Started) pass(ctx context.Context, f *os.File) error {
	select {
	case <-s.ended:
		return errHelperGone
	case <-ctx.Done():
		return context.Cause(ctx)
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	}
	// A message goes as a whole or not at all, so it can be tried again.
	for ctx.Err() == nil {
		_ = s.control.SetWriteDeadline(time.Now().Add(passTime)) // fails only where the next line does
		_, _, err := s.control.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%w (%w)", errHelperGone, err)
		}
	}
	return fmt.Errorf("the PAM helper does not take questions: %w", context.Cause(ctx))
}

// Close ends the helper with all its children, and waits for it, a few seconds
// at most. It is to be called once.
func (s *Started) Close() error {
	close(s.closing)
	err := s.control.Close()
	select {
	case <-s.ended:
		return err
	case <-time.After(stopTime):
		return errors.Join(err, errors.New("the PAM helper does not end"))
	}
}

// socketPair makes two sockets that are connected: one to use here, one to give
// away.
func socketPair(kind int) (*net.UnixConn, *os.File, error) {
	// The lock keeps a child that is started meanwhile from inheriting them.
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

// unixConn takes over a descriptor.
func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "unix")
	defer f.Close() // FileConn has its own
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

// Inherited is the listener of a process that [StartHelper] has started. It ends
// with io.EOF when the starter is gone.
func Inherited() (net.Listener, error) {
	unix.CloseOnExec(controlFD)
	if err := CloseInherited(controlFD + 1); err != nil {
		return nil, err
	}
	control, err := unixConn(controlFD)
	if err != nil {
		return nil, fmt.Errorf("pam: this is for postern to start: %w", err)
	}
	return &inherited{control}, nil
}

// An inherited listener takes connections as descriptors.
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

// passedConn takes the one descriptor of a message. Of a message with more of them
// it takes none: nobody of ours sends such a thing.
func passedConn(rights []byte) (net.Conn, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range messages {
		passed, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // it is of another kind
		}
		fds = append(fds, passed...)
	}
	if len(fds) == 1 {
		return unixConn(fds[0])
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return nil, fmt.Errorf("a message with %d descriptors instead of one", len(fds))
}
