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

// The test binary plays the other processes as well.
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

// scriptedChild does what the password says, instead of asking PAM.
func scriptedChild() int {
	in, out := os.NewFile(questionFD, "question"), os.NewFile(answerFD, "answer")
	r, err := saslauthd.ReadRequest(in)
	if err != nil {
		return 1
	}
	go endWith(in)
	answer := func(a saslauthd.Answer) { _, _ = out.Write(a.Append(nil)) }
	what, arg, _ := strings.Cut(r.Password, ":")
	switch what {
	case "right":
		answer(yes(r.Login))
	case "wrong":
		answer(no(auth.Unknowable, "Authentication failure"))
	case "expired":
		answer(no(auth.Expired, ""))
	case "down":
		answer(unsure("no server"))
	case "garbage":
		_, _ = out.Write([]byte("\xff\xffOK"))
	case "mute":
	case "crash":
		answer(yes(r.Login))
		return 2
	case "environment":
		answer(yes(fmt.Sprint(os.Args[1:], os.Environ(), r.Extended, r.Client)))
	case "files":
		answer(yes(openFiles()))
	case "hang":
		hang(arg)
	case "crowd":
		answer(crowd(arg))
	}
	return 0
}

// hang never answers, and has a child of its own that keeps everything open and
// has left its process group, as one of pam_exec does. Its process id is in file.
func hang(file string) {
	sleep := exec.Command("sleep", "600")
	sleep.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	sleep.Stdin, sleep.Stdout, sleep.Stderr = os.Stdin, os.Stdout, os.Stderr
	sleep.ExtraFiles = []*os.File{os.NewFile(questionFD, ""), os.NewFile(answerFD, "")}
	if sleep.Start() != nil {
		return
	}
	_ = os.WriteFile(file+".new", []byte(strconv.Itoa(sleep.Process.Pid)), 0o600)
	_ = os.Rename(file+".new", file)
	select {}
}

// crowd says how many children are in dir at once.
func crowd(dir string) saslauthd.Answer {
	mine := filepath.Join(dir, strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		return unsure(err.Error())
	}
	defer os.Remove(mine)
	time.Sleep(30 * time.Millisecond)
	others, _ := os.ReadDir(dir)
	return yes(strconv.Itoa(len(others)))
}

// openFiles lists what the child has open.
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
		{"right", yes("alice"), ""},
		{"wrong", no(auth.Unknowable, "Authentication failure"), ""},
		{"down", unsure("no server"), ""},
		{"garbage", saslauthd.Answer{}, "ended without an answer"},
		{"mute", saslauthd.Answer{}, "ended without an answer"},
		{"crash", yes("alice"), "and then failed"}, // which the helper does not take for a yes
		{"environment", yes(fmt.Sprint([]string{"scripted-child"}, childEnv, false, netip.Addr{})), ""},
	}
	for _, tt := range tests {
		got, err := ask(t, tt.password)
		if tt.err == "" && (err != nil || got != tt.want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %+v, %v", tt.password, got, err)
		}
	}
}

// A child has none of the sockets of the helper.
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

// A child that hangs is killed, with what it has started.
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

// The real child without libpam, or without its service, has no answer.
func TestRealChild(t *testing.T) {
	ctx := t.Context()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "real-child")
	a, err := runChild(ctx, cmd, saslauthd.Request{Login: "alice", Password: "pw", Service: "no-such-service-of-postern"})
	if err != nil || a.Verdict == saslauthd.OK {
		t.Errorf("%+v, %v", a, err)
	}
	if !Available && !strings.Contains(a.Text, "postern-pam") {
		t.Errorf("does not name the other build: %+v", a)
	}
}

// waitFor waits for a file. Any goroutine of a test may call it.
func waitFor(t *testing.T, file string) {
	t.Helper()
	if !kit.Soon(func() bool { _, err := os.Stat(file); return err == nil }) {
		t.Errorf("waited in vain for %s", file)
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

// runs says whether a process is there, and no zombie: nobody may be left to
// collect it.
func runs(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
