package test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"
)

// 2,000 clients have logged in and say nothing. What each costs is printed by
//
//	go test -run TestIdleClients -v ./test
func TestIdleClients(t *testing.T) {
	const clients, atOnce = 2000, 16
	p := startPostern(t, posternOptions{NextHop: "smtp://" + startSink(t).Addr, Plain: true})
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
	time.Sleep(2 * time.Second) // for what the handshakes have left behind
	after := p.pss(t)
	t.Logf("%d idle authenticated TLS clients: PSS %d KiB, %.1f KiB per client",
		clients, after, float64(after-before)/clients)
	for i, c := range held {
		if err := c.want(250, "NOOP"); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		c.close()
	}
}

// pss is the server's share of memory in KiB.
func (p *postern) pss(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	field := regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB$`).FindSubmatch(text)
	if field == nil {
		t.Fatalf("no Pss in %s", text)
	}
	n, err := strconv.Atoi(string(field[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
