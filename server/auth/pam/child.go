package pam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"postern/server/auth/saslauthd"
)

// A child has its question on one pipe and its answer on another, apart from
// the standard streams: a module may print. It sees no more of the helper than
// these, and its command line and environment say nothing of the question.
const (
	questionFD = 3
	answerFD   = 4
)

// childEnv is all that modules, and the programs that they start, find in the
// environment.
var childEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}

// killGrace is how long a killed child may leave its pipes to its own children.
const killGrace = time.Second

// Child is the whole life of the process that answers one question. dir holds
// the PAM service files; empty: the system's. It ends itself, and all that the
// modules have started, if the helper goes away.
func Child(dir string) error {
	unix.CloseOnExec(questionFD)
	unix.CloseOnExec(answerFD)
	if err := CloseInherited(answerFD + 1); err != nil {
		return err
	}
	in, out := os.NewFile(questionFD, "question"), os.NewFile(answerFD, "answer")
	r, err := saslauthd.ReadRequest(in)
	if err != nil {
		return fmt.Errorf("pam: this is for the helper to start: %w", err)
	}
	go endWith(in)
	a := authenticate(question{
		login: r.Login, password: r.Password, service: r.Service, client: r.Client, atOnce: r.Extended,
	}, dir)
	_, err = out.Write(a.Append(nil))
	return err
}

// endWith waits for the end of a stream that the helper holds open. Killing is
// the only way out of a module that hangs.
func endWith(helper io.Reader) {
	_, _ = io.Copy(io.Discard, helper)
	_ = killTree(os.Getpid())
}

// killTree kills the child pid, with what its module has started: those of its
// process group, which it leads, and those that have left it, as the programs of
// pam_exec do. It is stopped first, so that it starts nothing meanwhile; from
// inside it cannot be, but the module hangs then.
func killTree(pid int) error {
	if pid != os.Getpid() {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	for _, d := range descendants(pid) {
		_ = syscall.Kill(d, syscall.SIGKILL)
	}
	return syscall.Kill(-pid, syscall.SIGKILL)
}

// runChild has a question answered by a child, and kills it when ctx ends.
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

// pipes are the two between helper and child.
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

// close closes what is still open.
func (p *pipes) close() {
	for _, f := range []*os.File{p.childIn, p.in, p.out, p.childOut} {
		_ = f.Close() // of one that is closed already, or was never opened: an error without a meaning
	}
}

// childStarted closes the child's ends here, so that its end is the end of the
// stream.
func (p *pipes) childStarted() {
	_ = p.childIn.Close()
	_ = p.childOut.Close()
}

// exchange sends the question and reads the answer. The question fits into the
// pipe, so a child that does not read holds nobody up.
func (p *pipes) exchange(ctx context.Context, question []byte) (saslauthd.Answer, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.out.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := p.in.Write(question); err != nil {
		return saslauthd.Answer{}, fmt.Errorf("the child does not listen: %w", err)
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
