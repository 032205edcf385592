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
	"syscall"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// What the child that kills itself is told.
const (
	crashDir  = "POSTERN_TEST_SPOOL"
	crashHop  = "POSTERN_TEST_HOP"
	crashStep = "POSTERN_TEST_STEP" // how many steps it lives
	crashMail = "POSTERN_TEST_MAIL" // what it submits; empty to deliver what is there
)

// crashingChild works on a spool until its time has come. It prints a line
// when it has said 250.
func crashingChild() int {
	route, err := openRoute(os.Getenv(crashHop))
	if err != nil {
		return 2
	}
	cfg := Defaults()
	cfg.Dir = os.Getenv(crashDir)
	s, err := Open(cfg, Options{Bytes: 1 << 30, Hostname: "mail.example.org", Events: NewLog(slog.New(slog.DiscardHandler))})
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
	for len(s.ledger.all()) > 0 || len(mustRead(s.folder.path(queued))) > 0 {
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

// crashTest is a mail for which everything happens: one recipient takes it,
// one refuses it, one wants it later.
func crashTest(subject string) mail {
	m := toBob(subject)
	m.to = []string{"bob@example.com", "nobody@example.com", "later@example.com"}
	return m
}

// runChild reports whether the child said 250, and whether it was killed.
func runChild(t *testing.T, dir, hop, subject string, steps int) (said, killed bool) {
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

// Killed at any step of taking a message, it is there as a whole or not at
// all, and it is there if the client was told so.
func TestKillWhileTaking(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	hop.Stop()
	defer hop.Start()
	for steps := 0; ; steps++ {
		dir := t.TempDir()
		said, killed := runChild(t, dir, hop.URL(), "x", steps)
		b, err := Browse(dir)
		if err != nil {
			t.Fatal(err)
		}
		items, err := b.List()
		if err != nil {
			t.Fatal(err)
		}
		if said && len(items) != 1 {
			t.Errorf("killed after %d steps: 250 was said, and there are %d messages", steps, len(items))
		}
		for _, i := range items {
			if i.State != Queued || len(i.Pending) != 3 {
				t.Errorf("killed after %d steps: %+v", steps, i)
			}
		}
		if !killed {
			if !said || steps != 5 {
				t.Errorf("taking takes %d steps, 250: %v", steps, said)
			}
			return
		}
	}
}

// Killed at any step of a delivery, nobody goes without, and the sender is
// told of the refusal.
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
		for _, who := range []string{"bob@example.com", "later@example.com", "alice@example.org"} {
			if got[who] < 1 || got[who] > 2 {
				t.Errorf("killed after %d steps: %s has %d", steps, who, got[who])
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

// refuseSome refuses nobody for good, and later once.
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
