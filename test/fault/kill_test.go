package fault

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

const (
	kills   = 20
	workers = 5 // how many messages the spool delivers at once
)

// kill -9 under load, again and again. What was told 250 is at the hop. The
// client whose connection died tries again, and so the hop may have a message
// twice that it had taken just before.
func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	hop := relaytest.New(t, relaytest.Options{})
	s := startServer(t, hop.URL(), map[string]string{"auth": exempt})
	book := newLedger()
	users := startLoad(s, book, 8)
	killOften(t, s, book)
	users.finish()
	book.settle(t, hop, 0)
}

// killOften kills the server at any moment of its work, and starts it again.
func killOften(t *testing.T, s *server, book *ledger) {
	t.Helper()
	for range kills {
		before := book.accepted()
		kit.Eventually(t, "messages to be accepted", func() bool { return book.accepted() >= before+20 })
		time.Sleep(rand.N(50 * time.Millisecond))
		s.kill(t)
		s.launch(t)
	}
	s.await(t)
}

// The same with a spool, before a hop that is down half of the time. What was
// told 250 is at the hop or in the spool, and arrives when the hop is back for
// good. The spool tries again where the hop's answer was cut off, too.
func TestKillWithSpool(t *testing.T) {
	t.Parallel()
	spool := folder(t)
	hop := relaytest.New(t, relaytest.Options{})
	s := startServer(t, hop.URL(), map[string]string{
		"relay": fmt.Sprintf("spool = %q\npatience = \"200ms\"\n", spool), "auth": exempt,
	})
	book := newLedger()
	users := startLoad(s, book, 8)
	settled := flap(hop)
	killOften(t, s, book)
	stops := settled()
	users.finish()
	kept := inSpool(t, spool)
	s.stop(t)
	s.start(t)
	if out, err := s.command(t, "queue", "flush").CombinedOutput(); err != nil {
		t.Errorf("queue flush: %v\n%s", err, out)
	}
	kit.Eventually(t, "an empty spool", func() bool { return inSpool(t, spool) == 0 })
	book.settle(t, hop, workers*(kills+stops))
	spooled := s.logged("message spooled")
	t.Logf("the hop was down %d times; %d messages went through the spool, %d were in it when the load ended", stops, spooled, kept)
	if spooled == 0 {
		t.Error("nothing went through the spool")
	}
}

// flap stops and starts the hop until the function that it returns is called,
// which leaves it running and tells how often it was stopped.
func flap(hop *relaytest.Hop) (settle func() int) {
	done, count := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				count <- n
				return
			case <-time.After(400 * time.Millisecond):
			}
			hop.Stop()
			time.Sleep(400 * time.Millisecond)
			hop.Start()
		}
	}()
	return func() int { close(done); return <-count }
}

// inSpool is how many messages are on disk.
func inSpool(t *testing.T, spool string) int {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(spool, "queue"))
	if err != nil {
		t.Fatal(err)
	}
	damaged, err := os.ReadDir(filepath.Join(spool, "bad"))
	if err != nil || len(damaged) > 0 {
		t.Errorf("%d damaged messages, %v", len(damaged), err)
	}
	return len(files)
}
