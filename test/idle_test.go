package test

import (
	"fmt"
	"sync"
	"testing"
	"time"
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
	var each float64
	for until := time.Now().Add(time.Minute); ; {
		time.Sleep(2 * time.Second) // for what the handshakes have left behind
		after := p.pss(t)
		each = float64(after-before) / clients
		t.Logf("%d idle authenticated TLS clients: PSS %d KiB, %.1f KiB per client", clients, after, each)
		if each <= most {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("more than %d KiB per client", most)
		}
	}
	for i, c := range held {
		if err := c.want(250, "NOOP"); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		c.close()
	}
}
