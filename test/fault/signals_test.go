package fault

import (
	"syscall"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// SIGHUP five times a second: no message and no session notices.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	const reloads = 15
	hop := relaytest.New(t, relaytest.Options{})
	s := startServer(t, hop.URL(), map[string]string{"auth": exempt})
	idle, err := s.login("alice")
	if err != nil {
		t.Fatal(err)
	}
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
		t.Errorf("the idle session: %v, %v", r, err)
	}
	b := book.settle(t, hop, 0)
	if b.attempts != b.told || b.copies > 0 {
		t.Error("a message has noticed the reload")
	}
	kit.Eventually(t, "a reload", func() bool { return s.logged("msg=reloaded") > 0 })
	t.Logf("%d signals, %d reloads", reloads, s.logged("msg=reloaded"))
}

// SIGTERM under load, again and again: postern ends with status 0, and what it
// had taken in full it has answered for, so that nothing comes twice.
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
		t.Error("a message was taken and not answered for")
	}
}
