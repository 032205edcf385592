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

// A SocketConfig is the named socket of a helper that runs as a service.
type SocketConfig struct {
	Path string      // absolute; its folder is created if it does not exist
	Mode fs.FileMode // of the socket
	GID  int         // of the socket

	// Users are the user ids that may send requests, besides the helper's. The kernel
	// reports the id of a peer. The mode of the socket is a second protection.
	Users []int

	Log *slog.Logger
}

// Listen creates the socket. It replaces a stale one. If a process listens at the path, it
// returns an error.
func Listen(cfg SocketConfig) (net.Listener, error) {
	if err := prepareFolder(cfg.Path); err != nil {
		return nil, err
	}
	// It gets its owner and mode under a temporary name. Renaming it then replaces a
	// stale socket in one step.
	fresh := fmt.Sprintf("%s.%d", cfg.Path, os.Getpid())
	_ = os.Remove(fresh) // of a crashed helper with the same process id
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
	named.closeOnce = sync.OnceValue(named.close)
	return named, nil
}

// prepareFolder creates the folder of the socket, and checks that the path is free or has a
// stale socket.
func prepareFolder(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := checkOwners(dir); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s exists and is not a socket; choose another path, or remove it", path)
	}
	return checkStale(path)
}

// checkOwners returns an error if users other than root and the helper's can write to the
// folder or to one above it. They could replace the socket, or replace the temporary one by
// a link, and root would change the mode of its target.
func checkOwners(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	for above := ""; err == nil && dir != above; above, dir = dir, filepath.Dir(dir) {
		var st unix.Stat_t
		err = unix.Stat(dir, &st)
		switch uid := int(st.Uid); {
		case err != nil:
			err = &fs.PathError{Op: "stat", Path: dir, Err: err}
		case uid != 0 && uid != os.Geteuid():
			err = fmt.Errorf("%s belongs to uid %d, which could replace the socket; choose a folder that belongs to root", dir, uid)
		case st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0:
			err = fmt.Errorf("%s may be written by others, which could replace the socket; run chmod go-w %[1]s", dir)
		}
	}
	return err
}

// checkStale returns an error unless connections to the socket are refused.
func checkStale(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		err = conn.Close()
	} else if errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return errors.Join(fmt.Errorf("another process listens at %s already, such as a pam-helper or saslauthd; stop it first", path), err)
}

// A namedListener accepts only peers whose UID is allowed.
type namedListener struct {
	*net.UnixListener
	path  string
	file  fs.FileInfo // identifies the socket at path
	users []int
	log   *slog.Logger

	refusing  chan struct{} // a token for each refused client that may send its request
	closeOnce func() error
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
		l.log.Warn("refused somebody who may not ask; start the helper with --allow-user for this uid", "uid", uid, "err", err)
		l.refuse(conn)
	}
}

// refuse closes the connection after it has read the request, since some clients, such as
// testsaslauthd, die of SIGPIPE when they write to a closed socket. It does so for
// maxRefusals clients at once; further ones are closed at once.
func (l *namedListener) refuse(conn net.Conn) {
	select {
	case l.refusing <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	go func() {
		_ = conn.SetDeadline(time.Now().Add(refusalTime))
		_, _ = saslauthd.ReadRequest(conn) // of any content
		_ = conn.Close()
		<-l.refusing
	}()
}

// Addr implements net.Listener.
func (l *namedListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close implements net.Listener. It may be called more than once.
func (l *namedListener) Close() error { return l.closeOnce() }

// close removes the socket, unless another helper has replaced it, and waits for the clients
// that are being refused.
func (l *namedListener) close() error {
	if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.file) {
		_ = os.Remove(l.path) // the next helper replaces a stale socket
	}
	err := l.UnixListener.Close()
	for range maxRefusals {
		l.refusing <- struct{}{}
	}
	return err
}
