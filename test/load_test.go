package test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/test/kit"
)

// postern is killed in the middle of its work. Every message whose 250 a
// client had read by then is at the sink.
func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	const clients, atLeast = 8, 100
	s := startSink(t)
	p := startPostern(t, posternOptions{NextHop: startPostfix(t, s).URL})
	var (
		accepted atomic.Int64
		wg       sync.WaitGroup
		marks    [clients][]string
	)
	for i := range clients {
		c := p.mustLogin(t, "alice")
		wg.Go(func() {
			for n := 0; ; n++ {
				mark := fmt.Sprintf("kill-%d-%d", i, n)
				r, err := c.submit(letter(mark), "alice@example.org", "bob@example.net")
				if err != nil {
					return // the end, as planned
				}
				if r.Code == 250 {
					marks[i] = append(marks[i], mark)
					accepted.Add(1)
				}
			}
		})
	}
	kit.Eventually(t, "messages to be accepted", func() bool { return accepted.Load() >= atLeast })
	p.kill(t)
	wg.Wait()
	for i := range marks {
		for _, mark := range marks[i] {
			kit.Eventually(t, mark+" at the sink", func() bool { return len(s.deliveries("<"+mark+"@")) > 0 })
		}
	}
	t.Logf("%d messages were accepted, none is lost", accepted.Load())
}

// One user has 200 bodies under way that hardly move, and 200 recipients
// refused. Another one sends as if nothing were the matter.
func TestOneUsersMistakesAreNotAnothersDelay(t *testing.T) {
	t.Parallel()
	const bodies, refusals, letters, patience = 200, 200, 30, time.Minute
	s := startSink(t)
	p := startPostern(t, posternOptions{NextHop: startPostfix(t, s, refuseRecipients).URL})

	var underWay sync.WaitGroup
	underWay.Add(bodies)
	release := make(chan struct{})
	dawdlers := inBackground(bodies, func(i int) error { return p.dawdle(i, underWay.Done, release) })
	underWay.Wait()
	careless := inBackground(refusals/10, func(i int) error { return p.getRefused(bodies+i, 10) })

	c := p.mustLogin(t, "alice")
	slowest := time.Duration(0)
	for n := range letters {
		begun := time.Now()
		if err := accepted(c.submit(letter(fmt.Sprintf("normal-%d", n)), "alice@example.org", "bob@example.net")); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(begun))
		time.Sleep(50 * time.Millisecond)
	}
	if slowest > patience {
		t.Errorf("one message of the other user took %v", slowest)
	}
	close(release)
	if err := errors.Join(careless(), dawdlers()); err != nil {
		t.Error(err)
	}
	t.Logf("slowest of %d messages of the other user: %v", letters, slowest.Round(time.Millisecond))
}

// inBackground runs n jobs at once; the function that it returns waits for
// them and returns their errors.
func inBackground(n int, job func(i int) error) func() error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = job(i) })
	}
	return func() error {
		wg.Wait()
		return errors.Join(errs...)
	}
}

// dawdle sends a body at a line a second until it is released, and wants it
// to be accepted then. It says when it is under way, or has failed to be.
func (p *postern) dawdle(i int, underWay func(), release <-chan struct{}) error {
	underWay = sync.OnceFunc(underWay)
	defer underWay()
	c, err := p.login("bob", loopbackClient(i))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.wantAll("MAIL FROM:<bob@example.org>", "RCPT TO:<carol@example.net>", "DATA"); err != nil {
		return err
	}
	if err := c.Text.PrintfLine("From: bob@example.org\r\nSubject: slow\r\n"); err != nil {
		return err
	}
	underWay()
	for {
		select {
		case <-release:
			return accepted(c.finish("That is all.\r\n"))
		case <-time.After(time.Second):
			if err := c.Text.PrintfLine("and"); err != nil {
				return err
			}
		}
	}
}

// getRefused names recipients that the hop refuses.
func (p *postern) getRefused(i, recipients int) error {
	c, err := p.login("bob", loopbackClient(i))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.wantAll("MAIL FROM:<bob@example.org>"); err != nil {
		return err
	}
	for n := range recipients {
		if err := c.want(550, fmt.Sprintf("RCPT TO:<nobody%d@refused.example.net>", n)); err != nil {
			return err
		}
	}
	return c.want(250, "RSET")
}
