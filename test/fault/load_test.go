package fault

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

const (
	kills   = 20
	workers = 5 // messages that the spool delivers at once
)

// SIGHUP five times a second affects no message and no session.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	const reloads = 15
	hop := relaytest.New(t, relaytest.Options{})
	s := startServer(t, hop.URL(), map[string]string{"auth": exempt})
	idle, err := s.login("alice")
	kit.Must(t, err)
	defer idle.Close()
	book := newLedger()
	users := startLoad(s, book, 8)
	kit.Eventually(t, "messages to be accepted", func() bool { return book.accepted() >= 50 })
	for range reloads {
		time.Sleep(200 * time.Millisecond)
		s.signal(t, syscall.SIGHUP)
	}
	users.finish()
	if r, err := idle.Ask("NOOP"); err != nil || r.Code != 250 {
		t.Errorf("idle session: got %v, %v, want 250", r, err)
	}
	b := book.settle(t, hop, 0)
	if b.attempts != b.got250 || b.copies > 0 {
		t.Error("a reload has affected a message")
	}
	kit.Eventually(t, "a reload", func() bool { return s.logged("msg=reloaded") > 0 })
	t.Logf("%d signals, %d reloads", reloads, s.logged("msg=reloaded"))
}

// SIGTERM under load, several times: postern ends with status 0, and has replied to each
// message that it had received in full, so that no message arrives twice.
func TestTerminateUnderLoad(t *testing.T) {
	t.Parallel()
	const times = 5
	hop := relaytest.New(t, relaytest.Options{})
	s := startServer(t, hop.URL(), map[string]string{"auth": exempt})
	book := newLedger()
	users := startLoad(s, book, 8)
	for range times {
		before := book.accepted()
		kit.Eventually(t, "messages to be accepted", func() bool { return book.accepted() >= before+20 })
		s.stop(t)
		s.launch(t)
	}
	users.finish()
	if b := book.settle(t, hop, 0); b.copies > 0 {
		t.Error("postern passed on a message and sent no reply")
	}
}

// kill -9 under load, many times. The hop has each message that got 250. A client whose
// connection ended sends its message again, so that the hop may have two copies of one
// that it had just accepted.
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

// killOften kills the server at random moments and starts it again.
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

// The same with a spool, and a hop that is down half of the time. Each message that got
// 250 is at the hop or in the spool, and arrives when the hop stays up. The spool also
// tries again if the reply of the hop was lost.
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
	t.Logf("the hop was down %d times; %d messages were spooled, %d were in the spool when the load ended", stops, spooled, kept)
	if spooled == 0 {
		t.Error("no message was spooled")
	}
}

// flap stops and starts the hop until settle is called. settle leaves the hop running
// and returns how often it was stopped.
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

// inSpool returns the number of messages on disk.
func inSpool(t *testing.T, spool string) int {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(spool, "queue"))
	kit.Must(t, err)
	damaged, err := os.ReadDir(filepath.Join(spool, "bad"))
	if err != nil || len(damaged) > 0 {
		t.Errorf("%d damaged messages, %v", len(damaged), err)
	}
	return len(files)
}

// A load is a number of users that send one message after the other, each in one session
// as long as it lasts. They repeat a message until it gets 250, as a mail client does.
type load struct {
	server *server
	ledger *ledger
	stop   chan struct{}
	users  sync.WaitGroup
}

func startLoad(s *server, l *ledger, users int) *load {
	d := &load{server: s, ledger: l, stop: make(chan struct{})}
	for i := range users {
		d.users.Go(func() { d.send(i) })
	}
	return d
}

// finish waits until each user has sent its current message.
func (d *load) finish() {
	close(d.stop)
	d.users.Wait()
}

func (d *load) send(i int) {
	u := &sender{load: d, user: []string{"alice", "bob"}[i%2]}
	defer u.leave()
	for n := 0; ; n++ {
		select {
		case <-d.stop:
			return
		default:
			u.deliver(fmt.Sprintf("load-%d-%d", i, n))
		}
	}
}

// A sender is one user and its session, if it has one.
type sender struct {
	load   *load
	user   string
	client *client
}

func (u *sender) leave() {
	if u.client != nil {
		u.client.Close()
		u.client = nil
	}
}

// deliver gives up after kit.Patience: then the ledger has no 250.
func (u *sender) deliver(mark string) {
	for deadline := time.Now().Add(kit.Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if u.client == nil {
			c, err := u.load.server.login(u.user)
			if err != nil {
				continue
			}
			u.client = c
		}
		r, err := u.load.ledger.submit(u.client, mark, u.user, 2000)
		switch {
		case err != nil || r.Code == 421:
			u.leave()
		case r.Code == 250:
			return
		}
	}
}
