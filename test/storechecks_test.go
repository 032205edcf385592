package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/server/auth"
	"postern/test/kit"
)

// A daemon is a server in the foreground. A shell runs it, and ends it when this process
// ends.
type daemon struct {
	args  []string
	stops string // the signal that ends it
	ready func() bool
	hold  func() error // ends it
	cmd   *exec.Cmd
	log   string
}

// startDaemon starts a server and waits until it is ready. Its output is written to a file
// in dir.
func startDaemon(t *testing.T, dir string, d daemon) *daemon {
	t.Helper()
	d.log = filepath.Join(dir, "output")
	d.start(t)
	t.Cleanup(func() {
		d.stop()
		if text, _ := os.ReadFile(d.log); t.Failed() {
			t.Logf("%s:\n%s", d.args[0], text[max(0, len(text)-4000):])
		}
	})
	return &d
}

func (d *daemon) start(t *testing.T) {
	t.Helper()
	out, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	kit.Must(t, err)
	defer out.Close()
	script := `"$@" </dev/null & read -r _; kill -` + d.stops + ` $!; wait $!`
	d.cmd = exec.Command("sh", append([]string{"-c", script, "sh"}, d.args...)...)
	d.cmd.Stdout, d.cmd.Stderr = out, out
	hold, err := d.cmd.StdinPipe()
	kit.Must(t, err)
	kit.Must(t, d.cmd.Start())
	d.hold = hold.Close
	kit.Eventually(t, d.args[0], d.ready)
}

func (d *daemon) stop() {
	if d.hold == nil {
		return
	}
	d.hold()
	_ = d.cmd.Wait() // ended by a signal, as intended
	d.hold = nil
}

// signal sends a signal to the daemon and its children.
func (d *daemon) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	for _, pid := range childrenOf(d.cmd.Process.Pid) {
		for _, child := range append(childrenOf(pid), pid) {
			if err := syscall.Kill(child, s); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
	}
}

// freeze stops the daemon until it gets SIGCONT. It waits until the kernel has stopped each
// thread.
func (d *daemon) freeze(t *testing.T) {
	t.Helper()
	d.signal(t, syscall.SIGSTOP)
	kit.Eventually(t, "every thread to stop", func() bool {
		for _, pid := range childrenOf(d.cmd.Process.Pid) {
			for _, child := range append(childrenOf(pid), pid) {
				if !frozen(child) {
					return false
				}
			}
		}
		return true
	})
}

func frozen(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		_, state, ok := strings.Cut(string(text), ") ")
		if err == nil && ok && state[0] != 'T' && state[0] != 'Z' {
			return false
		}
	}
	return true
}

func childrenOf(pid int) []int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	var pids []int
	for word := range strings.FieldsSeq(string(text)) {
		if n, err := strconv.Atoi(word); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// storeChecks are the checks that every store must pass with its real server.
type storeChecks struct {
	store  auth.PasswordVerifier
	server *daemon // nil if there is none
	user   string  // canonical, with the password "secret"
	wrong  string  // the answer to a wrong password
	nobody string  // the answer to an unknown name
}

// outcomeOf returns "ok" and the user, the kind of the failure, or "temporary".
func outcomeOf(id auth.Identity, err error) string {
	f, no := errors.AsType[*auth.Failure](err)
	switch {
	case err == nil:
		return "ok " + id.User
	case no:
		return f.Kind.String()
	}
	return "temporary"
}

// storeTime is enough for an answer even if the first of two servers is silent for half of
// it.
const storeTime = 40 * time.Second

// answer verifies a password within limit. It returns "too late" if the answer takes much
// longer.
func (d storeChecks) answer(login, password string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	began := time.Now()
	id, err := d.store.VerifyPassword(ctx, tlsClient(1), login, password)
	if late := time.Since(began) - limit; late > 30*time.Second {
		return "too late", fmt.Errorf("%v after the end of its time: %w", late, err)
	}
	return outcomeOf(id, err), err
}

func (d storeChecks) want(t *testing.T, login, password, want string) {
	t.Helper()
	if got, err := d.answer(login, password, storeTime); got != want {
		t.Errorf("%.50q: %s, want %s (%v)", login, got, want, err)
	}
}

func (d storeChecks) all(t *testing.T) {
	t.Run("good and bad", d.goodAndBad)
	t.Run("hostile names", d.hostileNames)
	t.Run("many at once", d.manyAtOnce)
	t.Run("abandoned", d.abandoned)
	if d.server != nil {
		t.Run("hanging", d.hanging)
		t.Run("down and back", d.downAndBack)
	}
}

func (d storeChecks) goodAndBad(t *testing.T) {
	d.want(t, d.user, "secret", "ok "+d.user)
	d.want(t, d.user, "wrong", d.wrong)
	d.want(t, d.user, "", auth.BadPassword.String())
	d.want(t, "nobody@example.org", "secret", d.nobody)
}

func (d storeChecks) hostileNames(t *testing.T) {
	names := []string{
		"*)(uid=*", "*", "a' or 1=1--", `a" or 1=1--`, "a' or '1'='1", "'; drop table users; --", `\' or 1=1 -- `, "{user}", "$1", "?", "%",
		"x\tlocal", "x\ny", "x\x00y", "../../etc/passwd", "alice,ou=people", "#alice", `alice\`, "\xff\xfe", strings.Repeat("a", 1<<20),
		d.user + "\x00", d.user + "'", d.user + "*", d.user + "%", "%" + d.user,
	}
	for _, name := range names {
		got, err := d.answer(name, "secret", storeTime)
		if got != d.nobody && got != auth.NoSuchUser.String() {
			t.Errorf("%.50q: %s (%v)", name, got, err)
		}
	}
	d.want(t, d.user, "secret", "ok "+d.user)
}

func (d storeChecks) manyAtOnce(t *testing.T) {
	var wait sync.WaitGroup
	for i := range 200 {
		wait.Go(func() {
			if i%2 == 0 {
				d.want(t, d.user, "secret", "ok "+d.user)
				return
			}
			d.want(t, d.user, fmt.Sprint("wrong ", i), d.wrong)
		})
	}
	wait.Wait()
}

// abandoned checks that logins whose clients disconnect at any moment do not affect others.
func (d storeChecks) abandoned(t *testing.T) {
	var wait sync.WaitGroup
	for i := range 50 {
		wait.Go(func() {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Duration(i)*200*time.Microsecond, context.Canceled)
			defer cancel()
			if got := outcomeOf(d.store.VerifyPassword(ctx, tlsClient(1), d.user, "secret")); got != "temporary" && got != "ok "+d.user {
				t.Error(got)
			}
		})
		wait.Go(func() { d.want(t, d.user, "secret", "ok "+d.user) })
	}
	wait.Wait()
}

// hanging freezes the server: logins fail in time, and succeed when the server continues.
func (d storeChecks) hanging(t *testing.T) {
	d.want(t, d.user, "secret", "ok "+d.user) // opens connections
	d.server.freeze(t)
	defer d.server.signal(t, syscall.SIGCONT)
	var wait sync.WaitGroup
	for range 30 {
		wait.Go(func() {
			if got, err := d.answer(d.user, "secret", time.Second); got != "temporary" {
				t.Errorf("hanging: %s (%v)", got, err)
			}
		})
	}
	wait.Wait()
	d.server.signal(t, syscall.SIGCONT)
	d.want(t, d.user, "secret", "ok "+d.user)
	d.want(t, d.user, "wrong", d.wrong)
}

func (d storeChecks) downAndBack(t *testing.T) {
	d.server.stop()
	d.want(t, d.user, "secret", "temporary")
	d.want(t, d.user, "wrong", "temporary")
	d.want(t, "nobody@example.org", "secret", "temporary")
	if c, ok := d.store.(interface{ Check(context.Context) error }); ok && c.Check(t.Context()) == nil {
		t.Error("check reports no error")
	}
	d.server.start(t)
	d.want(t, d.user, "secret", "ok "+d.user)
	d.want(t, d.user, "wrong", d.wrong)
}
