package test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"postern/test/kit"
)

// 2,000 clients have logged in and say nothing. What each costs is printed by
//
//	go test -run TestIdleClients -v ./test
func TestIdleClients(t *testing.T) {
	const clients, atOnce = 2000, 16
	const most = 40 // KiB
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
	var each float64
	soon := kit.Soon(func() bool {
		each = float64(p.pss(t)-before) / clients
		return each <= most
	})
	t.Logf("%d idle authenticated TLS clients: PSS %.1f KiB per client", clients, each)
	if !soon {
		t.Fatalf("more than %d KiB per client", most)
	}
	for i, c := range held {
		if err := c.want(250, "NOOP"); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		c.Close()
	}
}
