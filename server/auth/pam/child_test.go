package pam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
	"postern/test/kit"
)

// The test binary also runs as the helper and as a child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		// syscall.Exit does not wait for the race detector's last second.
		switch os.Args[1] {
		case "scripted-child":
			syscall.Exit(scriptedChild())
		case "real-child":
			syscall.Exit(status(Child("")))
		case "inherited-helper":
			syscall.Exit(status(inheritedHelper()))
		}
	}
	os.Exit(kit.Main(m))
}

func status(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// scriptedChild takes its action from the password, and does not use PAM.
func scriptedChild() int {
	in, out := os.NewFile(requestFD, "request"), os.NewFile(answerFD, "answer")
	r, err := saslauthd.ReadRequest(in)
	if err != nil {
		return 1
	}
	go endWith(in)
	answer := func(a saslauthd.Answer) { _, _ = out.Write(a.Append(nil)) }
	what, arg, _ := strings.Cut(r.Password, ":")
	switch what {
	case "right":
		answer(accept(r.Login))
	case "wrong":
		answer(reject(auth.Unknowable, "Authentication failure"))
	case "expired":
		answer(reject(auth.Expired, ""))
	case "down":
		answer(tryAgain("no server"))
	case "garbage":
		_, _ = out.Write([]byte("\xff\xffOK"))
	case "mute":
	case "crash":
		answer(accept(r.Login))
		return 2
	case "environment":
		answer(accept(fmt.Sprint(os.Args[1:], os.Environ(), r.Extended, r.Client)))
	case "files":
		answer(accept(openFiles()))
	case "hang":
		hang(arg)
	case "crowd":
		answer(crowd(arg))
	}
	return 0
}

// hang never answers. It starts a process that keeps all descriptors open and leaves the
// process group, as programs of pam_exec do, and writes its process id to file.
func hang(file string) {
	sleep := exec.Command("sleep", "600")
	sleep.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	sleep.Stdin, sleep.Stdout, sleep.Stderr = os.Stdin, os.Stdout, os.Stderr
	sleep.ExtraFiles = []*os.File{os.NewFile(requestFD, ""), os.NewFile(answerFD, "")}
	if sleep.Start() != nil {
		return
	}
	_ = os.WriteFile(file+".new", []byte(strconv.Itoa(sleep.Process.Pid)), 0o600)
	_ = os.Rename(file+".new", file)
	select {}
}

// crowd answers with the number of children that are in dir at once.
func crowd(dir string) saslauthd.Answer {
	mine := filepath.Join(dir, strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		return tryAgain(err.Error())
	}
	defer os.Remove(mine)
	time.Sleep(30 * time.Millisecond)
	others, _ := os.ReadDir(dir)
	return accept(strconv.Itoa(len(others)))
}

// openFiles lists the open files of the child.
func openFiles() string {
	fds, _ := os.ReadDir("/proc/self/fd")
	var open []string
	for _, fd := range fds {
		target, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		open = append(open, target)
	}
	return strings.Join(open, " ")
}

func scripted(ctx context.Context) *exec.Cmd {
	return exec.CommandContext(ctx, "/proc/self/exe", "scripted-child")
}

func ask(t *testing.T, password string) (saslauthd.Answer, error) {
	t.Helper()
	r := saslauthd.Request{Login: "alice", Password: password, Service: "smtp"}
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	return runChild(ctx, scripted(ctx), r)
}

func TestRunChild(t *testing.T) {
	tests := []struct {
		password string
		want     saslauthd.Answer
		err      string
	}{
		{"right", accept("alice"), ""},
		{"wrong", reject(auth.Unknowable, "Authentication failure"), ""},
		{"down", tryAgain("no server"), ""},
		{"garbage", saslauthd.Answer{}, "ended without an answer"},
		{"mute", saslauthd.Answer{}, "ended without an answer"},
		{"crash", accept("alice"), "and then failed"}, // which the helper does not accept
		{"environment", accept(fmt.Sprint([]string{"scripted-child"}, childEnv, false, netip.Addr{})), ""},
	}
	for _, tt := range tests {
		got, err := ask(t, tt.password)
		if tt.err == "" && (err != nil || got != tt.want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %+v, %v", tt.password, got, err)
		}
	}
}

// A child does not inherit the sockets of the helper.
func TestChildInherits(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "mux"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	a, err := ask(t, "files")
	if err != nil || !strings.Contains(a.Text, "pipe:") || strings.Contains(a.Text, name) {
		t.Errorf("a child has %q, %v; the helper's is %s", a.Text, err, name)
	}
}

// A child that hangs is killed with the processes that it has started.
func TestChildHangs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("time is over")
	go func() { waitFor(t, file); cancel(over) }()
	_, err := runChild(ctx, scripted(ctx), saslauthd.Request{Login: "alice", Password: "hang:" + file, Service: "smtp"})
	if !errors.Is(err, over) {
		t.Errorf("%v", err)
	}
	wantGone(t, file)
}

// The real child does not accept a login without libpam, or without the service.
func TestRealChild(t *testing.T) {
	ctx := t.Context()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "real-child")
	a, err := runChild(ctx, cmd, saslauthd.Request{Login: "alice", Password: "pw", Service: "no-such-service-of-postern"})
	if err != nil || a.Verdict == saslauthd.OK {
		t.Errorf("%+v, %v", a, err)
	}
	if !Available && !strings.Contains(a.Text, "postern-pam") {
		t.Errorf("%+v, want postern-pam in the text", a)
	}
}

// waitFor waits for a file. Any goroutine of a test may call it.
func waitFor(t *testing.T, file string) {
	t.Helper()
	if !kit.Soon(func() bool { _, err := os.Stat(file); return err == nil }) {
		t.Errorf("%s was not created", file)
	}
}

// wantGone waits for the end of the process whose id is in file.
func wantGone(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the end of the child's child", func() bool { return !runs(pid) })
}

// runs reports whether a process exists and is not a zombie, which no process may collect.
func runs(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
