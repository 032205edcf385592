package pam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
)

const (
	// readTimeout is how long a client may take to send its request, a few hundred
	// bytes on the same machine, and to read the answer.
	readTimeout = 5 * time.Second

	// maxConns is how many connections are served at once; most of them wait for a
	// child. Further ones wait in the kernel.
	maxConns = 1024

	// acceptPause is the pause after an error of accept.
	acceptPause = 100 * time.Millisecond
)

// timeoutHint names the likely cause of a timeout.
const timeoutHint = "a module of the service waits for something, such as a directory that is down: try it with pamtester, or see the log of the module"

// A HelperConfig is the configuration of a helper.
type HelperConfig struct {
	// Services are the allowed PAM services. Others are refused: the service "su"
	// accepts root without a password, for example.
	Services []string

	// CombineRealm appends "@" and the realm to the login, like saslauthd -r.
	CombineRealm bool

	// Processes is the maximum number of children at once.
	Processes int

	// Timeout is how long an answer may take, with the wait for a free child. Then the
	// child is killed.
	Timeout time.Duration

	// Child returns a command whose process calls [Child], and which ends with ctx. The
	// helper sets the pipes and all attributes of the process.
	Child func(ctx context.Context) *exec.Cmd

	Log *slog.Logger
}

// A Helper answers requests, each by a child.
type Helper struct {
	cfg      HelperConfig
	children chan struct{} // a token for each child
	conns    chan struct{} // a token for each connection
	handlers sync.WaitGroup
}

// NewHelper returns a helper that is not serving yet.
func NewHelper(cfg HelperConfig) *Helper {
	return &Helper{cfg: cfg, children: make(chan struct{}, cfg.Processes), conns: make(chan struct{}, maxConns)}
}

// Serve answers the clients of l, until ctx or l ends. Then it closes l, kills all
// children, and waits for their end. The end of an inherited l (io.EOF) is no error.
func (h *Helper) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer func() {
		cancel()
		stop()
		_ = l.Close()
		h.handlers.Wait()
	}()
	for {
		h.conns <- struct{}{}
		conn, err := l.Accept()
		if err == nil {
			h.handlers.Go(func() { h.handle(ctx, conn) })
			continue
		}
		<-h.conns
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
		// Most likely the process is out of file descriptors, which is temporary.
		h.cfg.Log.Error("cannot take a connection", "err", err)
		select {
		case <-time.After(acceptPause):
		case <-ctx.Done():
		}
	}
}

// overdue begins the answer if the modules took too long. The store distinguishes it from an
// error that PAM has reported.
const overdue = "PAM did not answer within"

// handle serves one client. A panic must not end the process, which only root can start
// again.
func (h *Helper) handle(ctx context.Context, conn net.Conn) {
	defer func() {
		if bug := recover(); bug != nil {
			h.cfg.Log.Error("a question was not answered", "panic", bug)
		}
		_ = conn.Close()
		<-h.conns
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, h.cfg.Timeout, fmt.Errorf("%s %v; %s", overdue, h.cfg.Timeout, timeoutHint))
	defer cancel()
	_ = conn.SetReadDeadline(time.Now().Add(readTimeout)) // fails only on a closed connection
	r, err := saslauthd.ReadRequest(conn)
	if err != nil {
		h.refuse(conn, err)
		return
	}
	begun := time.Now()
	a := h.answerClient(ctx, conn, r)
	h.report(conn, r, a, time.Since(begun))
	reply(conn, r, a)
}

// refuse handles an invalid request. The answer to a string that is too long is NO, as by
// saslauthd, since it cannot be the login of a user.
func (h *Helper) refuse(conn net.Conn, err error) {
	switch {
	case errors.Is(err, io.EOF): // a client that only checks that the helper is running
	case errors.Is(err, saslauthd.ErrTooLong), errors.Is(err, saslauthd.ErrMalformed):
		h.cfg.Log.Warn("question refused", "caller", caller(conn), "reason", err)
		reply(conn, saslauthd.Request{}, reject(auth.Unknowable, ""))
	default:
		h.cfg.Log.Warn("question not understood", "caller", caller(conn), "reason", err)
	}
}

// answerClient answers r, and stops if the client closes the connection.
func (h *Helper) answerClient(ctx context.Context, conn net.Conn, r saslauthd.Request) saslauthd.Answer {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	_ = conn.SetReadDeadline(time.Time{})
	go func() {
		defer close(watched)
		if waitForClose(conn) {
			cancel(errClientClosed)
		}
	}()
	a := h.answer(ctx, r)
	_ = conn.SetReadDeadline(time.Unix(1, 0)) // ends waitForClose
	<-watched
	return a
}

func (h *Helper) answer(ctx context.Context, r saslauthd.Request) saslauthd.Answer {
	if h.cfg.CombineRealm && r.Realm != "" {
		r.Login, r.Realm = r.Login+"@"+r.Realm, ""
	}
	if !slices.Contains(h.cfg.Services, r.Service) {
		return tryAgain(fmt.Sprintf("the PAM service %s is not among those that the helper was started with; "+
			"start it with --service NAME", saslauthd.Clip(r.Service)))
	}
	if a, refused := precheck(r); refused {
		return a
	}
	select {
	case h.children <- struct{}{}:
		defer func() { <-h.children }()
	case <-ctx.Done():
		return tryAgain("no process was free: " + context.Cause(ctx).Error())
	}
	a, err := runChild(ctx, h.cfg.Child(ctx), r)
	if err != nil {
		return tryAgain(err.Error())
	}
	return a
}

// reply sends the answer in the form that the client understands.
func reply(conn net.Conn, r saslauthd.Request, a saslauthd.Answer) {
	if !r.Extended {
		if a.Verdict == saslauthd.Neither {
			return
		}
		a.Text = ""
	}
	_ = conn.SetWriteDeadline(time.Now().Add(readTimeout))
	_, _ = conn.Write(a.Append(nil)) // fails if the client has closed the connection
}

// report logs one line for each request. It contains no password, and neither does any text
// of a child.
func (h *Helper) report(conn net.Conn, r saslauthd.Request, a saslauthd.Answer, took time.Duration) {
	level, key := slog.LevelInfo, "reason"
	switch a.Verdict {
	case saslauthd.OK:
		key = "user"
	case saslauthd.Neither:
		level = slog.LevelWarn
	}
	attrs := []any{
		"outcome", a.Verdict.String(), key, shorten(a.Text), "service", shorten(r.Service), "login", shorten(r.Login),
		"caller", caller(conn), "took", took.Round(time.Millisecond),
	}
	if r.Realm != "" {
		attrs = append(attrs, "realm", shorten(r.Realm))
	}
	if r.Client.IsValid() {
		attrs = append(attrs, "client", r.Client)
	}
	h.cfg.Log.Log(context.Background(), level, "pam", attrs...)
}

// shorten bounds a value in the log; the log handler escapes control characters.
func shorten(s string) string {
	const limit = 256 // bytes
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}

// errClientClosed is the cause that ends a child whose client has closed the connection.
var errClientClosed = errors.New("the client has closed the connection")

// waitForClose waits until the client closes the connection, or the read deadline passes,
// and reports whether the client did. A client that has only closed its sending direction,
// as a shell pipe does, still waits for the answer.
func waitForClose(conn net.Conn) bool {
	var rest [64]byte
	for {
		_, err := conn.Read(rest[:])
		switch {
		case err == nil:
			continue // ignore data after the request
		case errors.Is(err, io.EOF):
			return closedBothWays(conn)
		}
		return errors.Is(err, syscall.ECONNRESET)
	}
}

func closedBothWays(conn net.Conn) bool {
	closed := false
	err := control(conn, func(fd int) error {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(fds, 0)
		closed = fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		return err
	})
	return err == nil && closed
}

// caller returns the user id of the client's process, for the log.
func caller(conn net.Conn) string {
	uid, err := peerUID(conn)
	if err != nil {
		return "unknown"
	}
	return strconv.Itoa(uid)
}

// control calls f with the descriptor of a socket.
func control(conn net.Conn, f func(fd int) error) error {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
