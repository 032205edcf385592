package pam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"postern/server/auth/saslauthd"
)

// A child reads its request from one pipe and writes its answer to another. It does not use
// the standard streams, since a module may print. It inherits nothing else from the helper,
// and its command line and environment contain nothing of the request.
const (
	requestFD = 3
	answerFD  = 4
)

// childEnv is the whole environment of modules and of the programs that they start.
var childEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}

// killGrace is how long the pipes of a killed child may stay open in its descendants.
const killGrace = time.Second

// Child answers one request in its own process. dir is the folder of the PAM service files;
// empty: the system's. If the helper ends, the process kills itself and all processes that
// the modules have started.
func Child(dir string) error {
	unix.CloseOnExec(requestFD)
	unix.CloseOnExec(answerFD)
	if err := CloseInherited(answerFD + 1); err != nil {
		return err
	}
	in, out := os.NewFile(requestFD, "request"), os.NewFile(answerFD, "answer")
	r, err := saslauthd.ReadRequest(in)
	if err != nil {
		return fmt.Errorf("pam: only the PAM helper can start this process: %w", err)
	}
	go endWith(in)
	a := authenticate(login{
		name: r.Login, password: r.Password, service: r.Service, client: r.Client, noDelay: r.Extended,
	}, dir)
	_, err = out.Write(a.Append(nil))
	return err
}

// endWith kills this process when the helper closes the stream. A module that hangs cannot
// be ended in another way.
func endWith(helper io.Reader) {
	_, _ = io.Copy(io.Discard, helper)
	_ = killTree(os.Getpid())
}

// killTree kills the child pid and the processes that its modules have started: its process
// group, and descendants that have left the group, such as programs of pam_exec. The child
// is stopped first, so that it starts no further ones. It cannot stop itself, but it calls
// this only while its module hangs.
func killTree(pid int) error {
	if pid != os.Getpid() {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	for _, d := range descendants(pid) {
		_ = syscall.Kill(d, syscall.SIGKILL)
	}
	return syscall.Kill(-pid, syscall.SIGKILL)
}

// runChild sends a request to a child and returns its answer. It kills the child if ctx
// ends.
func runChild(ctx context.Context, cmd *exec.Cmd, r saslauthd.Request) (saslauthd.Answer, error) {
	text, err := r.Append(nil)
	if err != nil {
		return saslauthd.Answer{}, err
	}
	p, err := newPipes()
	if err != nil {
		return saslauthd.Answer{}, err
	}
	defer p.close()
	cmd.ExtraFiles = []*os.File{p.childIn, p.childOut}
	cmd.Env, cmd.Dir = childEnv, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killTree(cmd.Process.Pid) }
	cmd.WaitDelay = killGrace
	if err := startConfined(cmd); err != nil {
		return saslauthd.Answer{}, fmt.Errorf("cannot start a child: %w", err)
	}
	p.childStarted()
	a, err := p.exchange(ctx, text)
	if ended := cmd.Wait(); err == nil && ended != nil {
		err = fmt.Errorf("the child answered, and then failed: %w", ended)
	} else if err != nil && ended != nil {
		err = fmt.Errorf("%w (%w)", err, ended)
	}
	return a, err
}

// pipes are the two pipes between helper and child.
type pipes struct{ childIn, in, out, childOut *os.File }

func newPipes() (*pipes, error) {
	var p pipes
	var errs [2]error
	p.childIn, p.in, errs[0] = os.Pipe()
	p.out, p.childOut, errs[1] = os.Pipe()
	if err := errors.Join(errs[:]...); err != nil {
		p.close()
		return nil, err
	}
	return &p, nil
}

// close closes the ends that are open.
func (p *pipes) close() {
	for _, f := range []*os.File{p.childIn, p.in, p.out, p.childOut} {
		_ = f.Close() // fails if it is closed or was never opened
	}
}

// childStarted closes the child's ends in this process, so that the end of the child ends
// the streams.
func (p *pipes) childStarted() {
	_ = p.childIn.Close()
	_ = p.childOut.Close()
}

// exchange sends the request and reads the answer. The request fits into the buffer of the
// pipe, so the write does not block if the child does not read.
func (p *pipes) exchange(ctx context.Context, request []byte) (saslauthd.Answer, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.out.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := p.in.Write(request); err != nil {
		return saslauthd.Answer{}, fmt.Errorf("the child does not read its request: %w", err)
	}
	a, err := saslauthd.ReadAnswer(p.out)
	switch {
	case err == nil:
		return a, nil
	case ctx.Err() != nil:
		return saslauthd.Answer{}, context.Cause(ctx)
	}
	return saslauthd.Answer{}, fmt.Errorf("the child ended without an answer: %w", err)
}

// CloseInherited closes the inherited descriptors from first on. The parent may have left
// some open, such as a listening socket, a lock or a terminal, which the helper and its
// modules must not use. Descriptors that this process has opened stay open: they are
// close-on-exec, and inherited ones are not. It must be called before any process is
// started.
func CloseInherited(first int) error {
	open, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not Linux, where a named socket accepts no clients
	}
	if err != nil {
		return err
	}
	for _, entry := range open {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd < first {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue // the folder that was read, for example, which is closed by now
		}
		_ = unix.Close(fd) // an error concerns the parent
	}
	return nil
}
