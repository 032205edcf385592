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

// postern is killed under load. Every message whose 250 a client has read arrives at the
// sink.
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
					return // postern was killed
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
			kit.Eventually(t, mark+" to reach the sink", func() bool { return len(s.deliveries("<"+mark+"@")) > 0 })
		}
	}
	t.Logf("%d messages accepted, none lost", accepted.Load())
}

// One user sends 200 message bodies very slowly and has 200 recipients refused. Another
// user is not delayed.
func TestSlowUserDelaysNoOtherUser(t *testing.T) {
	t.Parallel()
	const bodies, refusals, letters, patience = 200, 200, 30, time.Minute
	s := startSink(t)
	p := startPostern(t, posternOptions{
		NextHop:  startPostfix(t, s, refuseRecipients).URL,
		Sections: map[string]string{"server.limits": "connections_per_user = 1000"},
	})

	var started sync.WaitGroup
	started.Add(bodies)
	release := make(chan struct{})
	slow := inBackground(bodies, func(i int) error { return p.sendSlowly(i, started.Done, release) })
	started.Wait()
	careless := inBackground(refusals/10, func(i int) error { return p.getRefused(bodies+i, 10) })

	c := p.mustLogin(t, "alice")
	slowest := time.Duration(0)
	for n := range letters {
		begun := time.Now()
		kit.Must(t, accepted(c.submit(letter(fmt.Sprintf("normal-%d", n)), "alice@example.org", "bob@example.net")))
		slowest = max(slowest, time.Since(begun))
		time.Sleep(50 * time.Millisecond)
	}
	if slowest > patience {
		t.Errorf("one message of the other user took %v, want less than %v", slowest, patience)
	}
	close(release)
	if err := errors.Join(careless(), slow()); err != nil {
		t.Error(err)
	}
	t.Logf("slowest of %d messages of the other user: %v", letters, slowest.Round(time.Millisecond))
}

// inBackground runs n jobs at once. The function that it returns waits for them and
// returns their errors.
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

// sendSlowly sends one line of a body per second until release is closed, and then
// expects 250. It calls started when the body has begun, or the transaction has failed.
func (p *postern) sendSlowly(i int, started func(), release <-chan struct{}) error {
	started = sync.OnceFunc(started)
	defer started()
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
	started()
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

// getRefused sends RCPT for recipients that the hop refuses.
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

// 2,000 clients have logged in and are idle. This prints the memory for each:
//
//	go test -run TestIdleClients -v ./test
func TestIdleClients(t *testing.T) {
	const clients, atOnce = 2000, 16
	const limit = 40 // KiB
	p := startPostern(t, posternOptions{
		NextHop: "smtp://" + startSink(t).Addr, Plain: true,
		Sections: map[string]string{"server.limits": fmt.Sprintf("connections_per_user = %d", clients)},
	})
	before := p.pss(t)
	held := make([]*submitter, clients)
	next := make(chan int)
	var wg sync.WaitGroup
	errs := make(chan error, atOnce)
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				c, err := p.login("alice", loopbackClient(i))
				if err != nil {
					errs <- fmt.Errorf("client %d: %w", i, err)
					return
				}
				held[i] = c
			}
		})
	}
	for i := range clients {
		select {
		case next <- i:
		case err := <-errs:
			t.Fatal(err)
		}
	}
	close(next)
	wg.Wait()
	time.Sleep(2 * time.Second) // until the memory of the handshakes is freed
	var each float64
	soon := kit.Soon(func() bool {
		each = float64(p.pss(t)-before) / clients
		return each <= limit
	})
	t.Logf("%d idle authenticated TLS clients: PSS %.1f KiB per client", clients, each)
	if !soon {
		t.Fatalf("more than %d KiB per client", limit)
	}
	for i, c := range held {
		if err := c.want(250, "NOOP"); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		c.Close()
	}
}
