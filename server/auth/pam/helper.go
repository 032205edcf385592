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
	"sync"
	"time"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
)

const (
	// hearing is how long somebody who has connected may take to say what he
	// wants. It is a few hundred bytes on the same machine.
	hearing = 5 * time.Second

	// maxHeard is how many may be connected at once, most of them waiting for
	// a child. More wait in the kernel.
	maxHeard = 1024

	acceptPause = 100 * time.Millisecond
)

// whatHangs is what to look for when an answer takes too long.
const whatHangs = "a module of the service waits for something, such as a directory that is down: try it with pamtester, or look into the log of the module"

// A HelperConfig says what a helper does.
type HelperConfig struct {
	// Services are the PAM services that may be asked. Any other is refused:
	// the service "su" lets root in without a password, for example.
	Services []string

	// CombineRealm makes login@realm of the two, like saslauthd -r.
	CombineRealm bool

	// Processes is how many children there are at most.
	Processes int

	// Timeout is how long an answer may take, the time until there is a child
	// included. Then the child is killed.
	Timeout time.Duration

	// Child is a command whose process calls [Child]. It ends with ctx; the
	// helper fills in the pipes, and all that concerns the process.
	Child func(ctx context.Context) *exec.Cmd

	Log *slog.Logger
}

// A Helper answers questions, each by a child.
type Helper struct {
	cfg      HelperConfig
	children chan struct{} // as many as there may be
	heard    chan struct{}
	handlers sync.WaitGroup
}

// NewHelper returns a helper that has nobody to hear yet.
func NewHelper(cfg HelperConfig) *Helper {
	return &Helper{cfg: cfg, children: make(chan struct{}, cfg.Processes), heard: make(chan struct{}, maxHeard)}
}

// Serve answers whoever comes in by l, which it closes, until ctx or l ends. Then
// all children are killed. The end of an inherited l is none of an error.
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
		h.heard <- struct{}{}
		conn, err := l.Accept()
		if err == nil {
			h.handlers.Go(func() { h.handle(ctx, conn) })
			continue
		}
		<-h.heard
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
		// Out of descriptors, most likely; it passes.
		h.cfg.Log.Error("cannot take a connection", "err", err)
		pause(ctx, acceptPause)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// handle answers one client. A mistake in it must not end the process, which
// nobody may be able to start again as root.
func (h *Helper) handle(ctx context.Context, conn net.Conn) {
	defer func() {
		if bug := recover(); bug != nil {
			h.cfg.Log.Error("a question was not answered", "panic", bug)
		}
		_ = conn.Close()
		<-h.heard
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, h.cfg.Timeout, fmt.Errorf("PAM did not answer within %v; %s", h.cfg.Timeout, whatHangs))
	defer cancel()
	_ = conn.SetReadDeadline(time.Now().Add(hearing)) // fails only on a closed connection
	r, err := saslauthd.ReadRequest(conn)
	if err != nil {
		h.misheard(conn, err)
		return
	}
	begun := time.Now()
	a := h.whileThere(ctx, conn, r)
	h.report(conn, r, a, time.Since(begun))
	reply(conn, r, a)
}

// misheard answers what could not be understood. A string that is too long is
// no login of anybody, and saslauthd says NO to it as well.
func (h *Helper) misheard(conn net.Conn, err error) {
	switch {
	case errors.Is(err, io.EOF): // "is anybody there?"
	case errors.Is(err, saslauthd.ErrTooLong), errors.Is(err, saslauthd.ErrMalformed):
		h.cfg.Log.Warn("question refused", "caller", caller(conn), "reason", err)
		reply(conn, saslauthd.Request{}, no(auth.Unknowable, ""))
	default:
		h.cfg.Log.Warn("question not understood", "caller", caller(conn), "reason", err)
	}
}

// whileThere answers r, and gives up when the client hangs up.
func (h *Helper) whileThere(ctx context.Context, conn net.Conn, r saslauthd.Request) saslauthd.Answer {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	_ = conn.SetReadDeadline(time.Time{})
	go func() {
		defer close(watched)
		if hungUp(conn) {
			cancel(errGone)
		}
	}()
	a := h.answer(ctx, r)
	_ = conn.SetReadDeadline(time.Unix(1, 0)) // ends the watch
	<-watched
	return a
}

func (h *Helper) answer(ctx context.Context, r saslauthd.Request) saslauthd.Answer {
	if h.cfg.CombineRealm && r.Realm != "" {
		r.Login, r.Realm = r.Login+"@"+r.Realm, ""
	}
	if !slices.Contains(h.cfg.Services, r.Service) {
		return unsure(fmt.Sprintf("the PAM service %s is not among those that the helper was started with; "+
			"start it with --service NAME", saslauthd.Clip(r.Service)))
	}
	if a, ok := hopeless(r); ok {
		return a
	}
	select {
	case h.children <- struct{}{}:
		defer func() { <-h.children }()
	case <-ctx.Done():
		return unsure("waited in vain for one of the processes: " + context.Cause(ctx).Error())
	}
	a, err := runChild(ctx, h.cfg.Child(ctx), r)
	if err != nil {
		return unsure(err.Error())
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
	_ = conn.SetWriteDeadline(time.Now().Add(hearing))
	_, _ = conn.Write(a.Append(nil)) // who has gone wants no answer
}

// report writes one line per question. The password is not in it, nor in any
// text that a child sends.
func (h *Helper) report(conn net.Conn, r saslauthd.Request, a saslauthd.Answer, took time.Duration) {
	level, about := slog.LevelInfo, "reason"
	switch a.Verdict {
	case saslauthd.OK:
		about = "user"
	case saslauthd.Neither:
		level = slog.LevelWarn
	}
	attrs := []any{
		"outcome", a.Verdict.String(), about, shorten(a.Text), "service", shorten(r.Service), "login", shorten(r.Login),
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

// shorten keeps a line of the log a line; the handler quotes what is odd in it.
func shorten(s string) string {
	const most = 256 // bytes
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
