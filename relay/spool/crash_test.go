package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// Environment variables of the child process that kills itself.
const (
	crashDir  = "POSTERN_TEST_SPOOL"
	crashHop  = "POSTERN_TEST_HOP"
	crashStep = "POSTERN_TEST_STEP" // number of steps before the kill
	crashMail = "POSTERN_TEST_MAIL" // subject to submit; empty to deliver what is spooled
)

// crashingChild uses a spool until it kills itself. It prints 250 when a client would get
// it.
func crashingChild() int {
	route, err := openRoute(os.Getenv(crashHop))
	if err != nil {
		return 2
	}
	cfg := Defaults()
	cfg.Dir = os.Getenv(crashDir)
	s, err := Open(cfg, Options{Sizes: Sizes{Total: 1 << 30}, Hostname: "mail.example.org", Events: NewLog(slog.New(slog.DiscardHandler))})
	if err != nil {
		return 3
	}
	s.pace = quick()
	s.pace.workers = 1 // so that the steps have an order
	left, _ := strconv.Atoi(os.Getenv(crashStep))
	s.folder.at = func(string) error {
		if left--; left < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			time.Sleep(time.Minute) // it does not return
		}
		return nil
	}
	if subject := os.Getenv(crashMail); subject != "" {
		if _, err := submit(context.Background(), s.Before(route), crashTest(subject)); err != nil {
			return 4
		}
		fmt.Println("250")
		return 0
	}
	s.Deliver(always(route), always(route))
	for len(s.index.idle()) > 0 || len(mustRead(s.folder.path(queued))) > 0 {
		time.Sleep(5 * time.Millisecond)
	}
	return 0
}

func mustRead(dir string) []os.DirEntry {
	all, err := os.ReadDir(dir)
	if err != nil {
		os.Exit(5)
	}
	return all
}

// crashTest is a mail with one recipient that accepts it, one that refuses it, and one that
// refuses it temporarily.
func crashTest(subject string) mail {
	m := toBob(subject)
	m.to = []string{"bob@example.com", "nobody@example.com", "later@example.com"}
	return m
}

// runChild reports whether the client would have got 250, and whether the child was killed.
func runChild(t *testing.T, dir, hop, subject string, steps int) (accepted, killed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir, crashHop+"="+hop, crashMail+"="+subject, crashStep+"="+strconv.Itoa(steps))
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL && ctx.Err() == nil {
		return strings.Contains(string(out), "250"), true
	}
	if err != nil {
		t.Fatalf("the child failed: %v", err)
	}
	return strings.Contains(string(out), "250"), false
}

// After a kill at any step of accepting a message, it is in the spool completely or not at
// all, and it is there if the client got 250.
func TestKillWhileAccepting(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	hop.Stop()
	defer hop.Start()
	for steps := 0; ; steps++ {
		dir := t.TempDir()
		accepted, killed := runChild(t, dir, hop.URL(), "x", steps)
		b, err := Browse(dir)
		if err != nil {
			t.Fatal(err)
		}
		items, err := b.List()
		if err != nil {
			t.Fatal(err)
		}
		if accepted && len(items) != 1 {
			t.Errorf("killed after %d steps: 250 was sent, and there are %d messages", steps, len(items))
		}
		for _, i := range items {
			if i.State != Queued || len(i.Pending) != 3 {
				t.Errorf("killed after %d steps: %+v", steps, i)
			}
		}
		if !killed {
			if !accepted || steps != 5 {
				t.Errorf("accepting takes %d steps, 250: %v", steps, accepted)
			}
			return
		}
	}
}

// After a kill at any step of a delivery, each recipient gets the message, and the sender
// the report on the refusal.
func TestKillWhileDelivering(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	template := t.TempDir()
	hop.Stop()
	runChild(t, template, hop.URL(), "x", 1000)
	hop.Start()
	for steps := 0; steps < 100; steps++ {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
			t.Fatal(err)
		}
		hop := relaytest.New(t, relaytest.Options{})
		hop.Handle(refuseSome())
		_, killed := runChild(t, dir, hop.URL(), "", steps)
		r := rigFor(t, dir, nil, hop)
		r.deliver()
		r.empty()
		r.close()
		got := map[string]int{}
		for _, m := range hop.Delivered() {
			for _, to := range m.To {
				got[to.Address]++
			}
		}
		for _, address := range []string{"bob@example.com", "later@example.com", "alice@example.org"} {
			if got[address] < 1 || got[address] > 2 {
				t.Errorf("killed after %d steps: %s has %d", steps, address, got[address])
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) > 0 {
			t.Errorf("killed after %d steps: left behind: %q", steps, left)
		}
		if !killed {
			if steps < 10 {
				t.Errorf("only %d steps", steps)
			}
			return
		}
	}
	t.Error("it never ended")
}

// refuseSome refuses one address permanently, and another one once.
func refuseSome() func(relaytest.Command) relaytest.Answer {
	asked := make(chan struct{}, 1)
	return func(c relaytest.Command) relaytest.Answer {
		switch {
		case c.Verb != "RCPT":
		case c.Address == "nobody@example.com":
			return relaytest.Say("550 5.1.1 No such user")
		case c.Address == "later@example.com":
			select {
			case asked <- struct{}{}:
				return relaytest.Say("450 4.2.1 Busy")
			default:
			}
		}
		return relaytest.Usual
	}
}

// While the hop goes down and up and the spool is closed and opened, every message that
// got 250 arrives.
func TestNothingIsLost(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	accepted := map[string]bool{}
	for round := range 3 {
		if round > 0 {
			r = rigFor(t, dir, nil, r.hop)
		}
		r.deliver()
		flapping, stop := context.WithCancel(t.Context())
		var flaps sync.WaitGroup
		flaps.Go(func() {
			for flapping.Err() == nil {
				time.Sleep(40 * time.Millisecond)
				r.hop.Stop()
				time.Sleep(40 * time.Millisecond)
				r.hop.Start()
			}
		})
		for subject := range submitMany(r, round) {
			accepted[subject] = true
		}
		stop()
		flaps.Wait()
		if round < 2 {
			r.close()
		}
	}
	r.empty()
	got := map[string]int{}
	for _, s := range subjects(r.hop.Delivered()) {
		got[s]++
	}
	twice := 0
	for subject := range accepted {
		if got[subject] == 0 {
			t.Errorf("%s is lost", subject)
		}
		if got[subject] > 1 {
			twice++
		}
	}
	t.Logf("%d messages got 250, %d arrived more than once", len(accepted), twice)
	if len(accepted) < 60 {
		t.Errorf("only %d messages were accepted", len(accepted))
	}
}

// submitMany submits as several users at the same time and returns the subjects of the
// messages that were accepted.
func submitMany(r *rig, round int) map[string]bool {
	var mu sync.Mutex
	accepted := map[string]bool{}
	var users sync.WaitGroup
	for user := range 4 {
		users.Go(func() {
			for i := range 10 {
				m := toBob(fmt.Sprintf("%d-%d-%d", round, user, i))
				m.login = fmt.Sprint("user", user)
				if _, err := submit(context.Background(), r.front, m); err == nil {
					mu.Lock()
					accepted[m.subject] = true
					mu.Unlock()
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	users.Wait()
	return accepted
}
