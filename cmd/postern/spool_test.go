package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/relay/relaytest"
	"postern/relay/spool"
	"postern/test/kit"
)

// spooling returns a server with a spool. Its next hop is scripted and down.
func spooling(t *testing.T) (*testServer, *relaytest.Hop) {
	t.Helper()
	hop := relaytest.New(t, relaytest.Options{})
	s := newTestServer(t)
	s.configure(t, "patience = \"50ms\"\nspool = \""+s.file("spool")+"\"\n")
	writeFile(t, s.config(), strings.Replace(readFile(t, s.config()), s.mailbox.URL(), hop.URL(), 1))
	s.start(t)
	hop.Stop()
	return s, hop
}

// send submits a message as alice, which must be accepted.
func (s *testServer) send(t *testing.T) {
	t.Helper()
	if err := s.trial(t, "alice", "right").Send(t.Context(), "token"); err != nil {
		t.Fatal(err)
	}
}

// delivers waits for this number of messages at the hop. There must not be more.
func (s *testServer) delivers(t *testing.T, hop *relaytest.Hop, want int) {
	t.Helper()
	kit.Soon(func() bool { return len(hop.Delivered()) >= want })
	if n := len(hop.Delivered()); n != want {
		t.Fatalf("%d delivered, want %d\n%s", n, want, s.log.String())
	}
}

func (s *testServer) queue(t *testing.T, args ...string) string {
	t.Helper()
	status, stdout, stderr := command(t, "", append(append([]string{"queue"}, args...), "--config", s.config())...)
	if status != process.ExitOK {
		t.Fatalf("queue %q: status %d: %s", args, status, stderr)
	}
	return stdout
}

var queueID = regexp.MustCompile(`(?m)^[0-9a-f]{20}`)

// A spooled message can be managed, is kept during a reload and a restart, and is
// delivered.
func TestSpool(t *testing.T) {
	s, hop := spooling(t)
	s.send(t)
	list := s.queue(t, "list")
	id := queueID.FindString(list)
	if id == "" || !strings.Contains(list, "queued") {
		t.Fatalf("list:\n%s", list)
	}
	wantLines(t, s.log.String(), "hop=spool queue_id="+id)
	s.queue(t, "hold", id)
	wantLines(t, s.queue(t, "show", id), "state         held", "login         alice", "connection refused")
	wantLines(t, s.queue(t, "show", "--message", id), "Received: ", "token")
	s.reload(t, "msg=reloaded")
	s.stop(t)
	hop.Start()

	again := &testServer{dir: s.dir, address: s.address, mailbox: s.mailbox, signals: make(chan os.Signal), ended: make(chan error, 1)}
	again.start(t)
	if n := len(hop.Delivered()); n != 0 {
		t.Errorf("%d delivered from hold", n)
	}
	again.queue(t, "release", allMessages)
	again.queue(t, "flush")
	again.delivers(t, hop, 1)
}

// A reload keeps the open spool, and logs what it cannot change.
func TestSpoolAndReload(t *testing.T) {
	s, hop := spooling(t)
	s.send(t)
	s.reload(t, "msg=reloaded")
	s.send(t)
	hop.Start()
	s.delivers(t, hop, 2)
	writeFile(t, s.config(), strings.Replace(readFile(t, s.config()), s.file("spool"), s.file("other"), 1))
	s.reload(t, "key=relay.spool")
}

// A report of the spool is signed by the key of its sender's domain, also after a
// reload.
func TestSpoolReportsAreSigned(t *testing.T) {
	s, hop := spooling(t)
	dir := t.TempDir()
	if status, _, stderr := command(t, "", "dkim", "keygen", "example.net", "--type", "ed25519", "--selector", "s1", "--out", dir); status != process.ExitOK {
		t.Fatal(stderr)
	}
	keys, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	kit.Must(t, err)
	if len(keys) != 1 {
		t.Fatalf("keys: %q", keys)
	}
	s.stop(t)
	text := strings.Replace(readFile(t, s.config()), "[server]\n", "[server]\norigin = \"example.net\"\n", 1)
	writeFile(t, s.config(), text+fmt.Sprintf("[[relay.dkim]]\ndomain = \"example.net\"\nselector = \"s1\"\nkey = %q\n", keys[0]))
	again := &testServer{dir: s.dir, address: s.address, mailbox: s.mailbox, signals: make(chan os.Signal), ended: make(chan error, 1)}
	again.start(t)
	again.send(t)
	again.reload(t, "msg=reloaded")
	hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "RCPT" && c.Address == "you@example.com" {
			return relaytest.Say("550 5.1.1 No such user")
		}
		return relaytest.Usual
	})
	hop.Start()
	again.delivers(t, hop, 1)
	got := hop.Delivered()
	if got[0].From != "" {
		t.Errorf("the report is from %q", got[0].From)
	}
	wantLines(t, string(got[0].Data), "DKIM-Signature: ", "d=example.net;", "From: Mail Delivery System <MAILER-DAEMON@example.net>\r\n")
}

// Two servers with one spool would deliver each message twice.
func TestSpoolIsOpenedOnce(t *testing.T) {
	s, hop := spooling(t)
	writeFile(t, s.file("second.toml"), strings.Replace(readFile(t, s.config()), s.address, kit.Addr(t), 1))
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(s.file("second.toml")) }, t.Output())
	kit.Must(t, err)
	defer d.Close()
	if err := d.Start(nil); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second server: %v", err)
	}
	hop.Start()
}

// If "flush" finds that a message of its list has been delivered, that is no error. It is
// one for a message that was named and does not exist.
func TestQueueWhileMessagesAreDelivered(t *testing.T) {
	for all, fails := range map[bool]bool{true: false, false: true} {
		var out strings.Builder
		err := doEach(&out, []string{"a", "b", "c"}, all, func(id string) error {
			if id == "b" {
				return fmt.Errorf("%s: %w", id, spool.ErrGone)
			}
			return nil
		})
		if (err != nil) != fails || out.String() != "2 messages\n" {
			t.Errorf("all %t: %v, %q", all, err, out.String())
		}
	}
}

func TestQueueWithoutSpool(t *testing.T) {
	s := newTestServer(t)
	if status, _, stderr := command(t, "", "queue", "list", "--config", s.config()); status != process.ExitFailure || !strings.Contains(stderr, "relay.spool") {
		t.Errorf("status %d: %s", status, stderr)
	}
	if status, _, _ := command(t, "", "queue", "remove", "--config", s.config()); status != process.ExitUsage {
		t.Errorf("remove without an id: status %d", status)
	}
}

func TestCheckOfTheSpool(t *testing.T) {
	s := newTestServer(t)
	s.configure(t, "spool = \""+s.file("spool")+"\"\n")
	status, stdout, _ := command(t, "", "check", "--config", s.config())
	if status != process.ExitFailure {
		t.Errorf("status %d", status)
	}
	wantLines(t, stdout, "FAIL  spool", "install -d")
	kit.Must(t, os.Mkdir(s.file("spool"), 0o700))
	status, stdout, _ = command(t, "", "check", "--config", s.config())
	if status != process.ExitOK {
		t.Errorf("status %d", status)
	}
	wantLines(t, stdout, "ok    spool")
}
