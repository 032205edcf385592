package pam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"postern/server/auth/saslauthd"
)

// A SocketConfig says where a helper that is a service of its own is found, and
// by whom.
type SocketConfig struct {
	Path string      // absolute; its folder is made if it is not there
	Mode fs.FileMode // of the socket
	GID  int         // whose group it is

	// Users are the user ids that may ask, besides the helper's own. The
	// kernel vouches for them, so this is the gate, and the mode a second one
	// in front of it.
	Users []int

	Log *slog.Logger
}

// Listen makes the socket. One that nobody listens to any more is replaced; one
// that somebody answers is left alone, and an error.
func Listen(cfg SocketConfig) (net.Listener, error) {
	if err := makeRoom(cfg.Path); err != nil {
		return nil, err
	}
	// It gets owner and mode under a name that nobody knows, and then its own in
	// one step, in the place of a stale one.
	fresh := fmt.Sprintf("%s.%d", cfg.Path, os.Getpid())
	_ = os.Remove(fresh) // of one with the same process id, before the machine was started
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = errors.Join(os.Chown(fresh, -1, cfg.GID), os.Chmod(fresh, cfg.Mode), os.Rename(fresh, cfg.Path))
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(fresh))
	}
	file, err := os.Lstat(cfg.Path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	users := append(slices.Clone(cfg.Users), os.Geteuid())
	named := &namedListener{
		UnixListener: l, path: cfg.Path, file: file, users: users, log: cfg.Log,
		refusing: make(chan struct{}, maxRefusals),
	}
	named.end = sync.OnceValue(named.close)
	return named, nil
}

// makeRoom makes the folder, and finds out whether the name is free.
func makeRoom(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := guarded(dir); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s is there already and no socket; name another path, or move it away", path)
	}
	return unanswered(path)
}

// guarded refuses a folder in which others could put a socket of theirs, or in
// the place of the fresh one a link: root would change the mode of what it leads
// to. Who may write above the folder could exchange all of it.
func guarded(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	for above := ""; err == nil && dir != above; above, dir = dir, filepath.Dir(dir) {
		var st unix.Stat_t
		err = unix.Stat(dir, &st)
		switch uid := int(st.Uid); {
		case err != nil:
			err = &fs.PathError{Op: "stat", Path: dir, Err: err}
		case uid != 0 && uid != os.Geteuid():
			err = fmt.Errorf("%s belongs to uid %d, who could put a socket of his own there: let the socket be in a folder of root's", dir, uid)
		case st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0:
			err = fmt.Errorf("%s may be written by others, who could put a socket of their own there: chmod go-w %[1]s", dir)
		}
	}
	return err
}

// unanswered tries out whether somebody listens.
func unanswered(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		err = conn.Close()
	} else if errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return errors.Join(fmt.Errorf("somebody listens at %s already: another pam-helper, or saslauthd? Stop it first", path), err)
}

// A namedListener hears only whom it is to hear.
type namedListener struct {
	*net.UnixListener
	path  string
	file  fs.FileInfo // which of that name it is
	users []int
	log   *slog.Logger

	refusing chan struct{} // as many as are refused with patience
	end      func() error  // close, once
}

const (
	maxRefusals = 16
	refusalTime = time.Second
)

// Accept implements net.Listener.
func (l *namedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.UnixListener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && slices.Contains(l.users, uid) {
			return conn, nil
		}
		l.log.Warn("refused somebody who may not ask; start the helper with --allow-user for him", "uid", uid, "err", err)
		l.refuse(conn)
	}
}

// refuse hangs up when the question has been sent: clients that write into a
// closed socket die of SIGPIPE, as testsaslauthd does. If there are many to be
// refused, they may.
func (l *namedListener) refuse(conn net.Conn) {
	select {
	case l.refusing <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	go func() {
		_ = conn.SetDeadline(time.Now().Add(refusalTime))
		_, _ = saslauthd.ReadRequest(conn) // whatever it is
		_ = conn.Close()
		<-l.refusing
	}()
}

// Addr implements net.Listener.
func (l *namedListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close implements net.Listener. More than once does no harm.
func (l *namedListener) Close() error { return l.end() }

// close takes the name away, unless another helper has taken it over meanwhile,
// and waits for the refusals.
func (l *namedListener) close() error {
	if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.file) {
		_ = os.Remove(l.path) // what is left is a stale socket, which the next helper replaces
	}
	err := l.UnixListener.Close()
	for range maxRefusals {
		l.refusing <- struct{}{}
	}
	return err
}
