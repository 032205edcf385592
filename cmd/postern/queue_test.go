package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/apptest"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/relay/relaytest"
	"postern/relay/spool"
	"postern/test/kit"
)

// spooling returns a server with a spool. Its next hop is scripted and down.
func spooling(t *testing.T) (*apptest.Server, *relaytest.Hop) {
	t.Helper()
	hop := relaytest.New(t, relaytest.Options{})
	s := apptest.New(t)
	s.Configure(t, "patience = \"50ms\"\nspool = \""+s.File("spool")+"\"\n")
	apptest.WriteFile(t, s.Config(), strings.Replace(apptest.ReadFile(t, s.Config()), s.Mailbox.URL(), hop.URL(), 1))
	s.Start(t)
	hop.Stop()
	return s, hop
}

// send submits a message as alice, which must be accepted.
func send(t *testing.T, s *apptest.Server) {
	t.Helper()
	if err := s.Trial(t, "alice", "right").Send(t.Context(), "token"); err != nil {
		t.Fatal(err)
	}
}

// delivers waits for this number of messages at the hop. There must not be more.
func delivers(t *testing.T, s *apptest.Server, hop *relaytest.Hop, want int) {
	t.Helper()
	kit.Soon(func() bool { return len(hop.Delivered()) >= want })
	if n := len(hop.Delivered()); n != want {
		t.Fatalf("%d delivered, want %d\n%s", n, want, s.Log.String())
	}
}

func runQueue(t *testing.T, s *apptest.Server, args ...string) string {
	t.Helper()
	status, stdout, stderr := command(t, "", append(append([]string{"queue"}, args...), "--config", s.Config())...)
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
	send(t, s)
	list := runQueue(t, s, "list")
	id := queueID.FindString(list)
	if id == "" || !strings.Contains(list, "queued") {
		t.Fatalf("list:\n%s", list)
	}
	apptest.WantLines(t, s.Log.String(), "hop=spool queue_id="+id)
	runQueue(t, s, "hold", id)
	apptest.WantLines(t, runQueue(t, s, "show", id), "state         held", "login         alice", "connection refused")
	apptest.WantLines(t, runQueue(t, s, "show", "--message", id), "Received: ", "token")
	s.Reload(t, "msg=reloaded")
	s.Stop(t)
	hop.Start()

	again := s.Again()
	again.Start(t)
	if n := len(hop.Delivered()); n != 0 {
		t.Errorf("%d delivered from hold", n)
	}
	runQueue(t, again, "release", allMessages)
	runQueue(t, again, "flush")
	delivers(t, again, hop, 1)
}

// A reload keeps the open spool, and logs what it cannot change.
func TestSpoolAndReload(t *testing.T) {
	s, hop := spooling(t)
	send(t, s)
	s.Reload(t, "msg=reloaded")
	send(t, s)
	hop.Start()
	delivers(t, s, hop, 2)
	apptest.WriteFile(t, s.Config(), strings.Replace(apptest.ReadFile(t, s.Config()), s.File("spool"), s.File("other"), 1))
	s.Reload(t, "key=relay.spool")
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
	s.Stop(t)
	text := strings.Replace(apptest.ReadFile(t, s.Config()), "[server]\n", "[server]\norigin = \"example.net\"\n", 1)
	apptest.WriteFile(t, s.Config(), text+fmt.Sprintf("[[relay.dkim]]\ndomain = \"example.net\"\nselector = \"s1\"\nkey = %q\n", keys[0]))
	again := s.Again()
	again.Start(t)
	send(t, again)
	again.Reload(t, "msg=reloaded")
	hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "RCPT" && c.Address == "you@example.com" {
			return relaytest.Say("550 5.1.1 No such user")
		}
		return relaytest.Usual
	})
	hop.Start()
	delivers(t, again, hop, 1)
	got := hop.Delivered()
	if got[0].From != "" {
		t.Errorf("the report is from %q", got[0].From)
	}
	apptest.WantLines(t, string(got[0].Data), "DKIM-Signature: ", "d=example.net;", "From: Mail Delivery System <MAILER-DAEMON@example.net>\r\n")
}

// Two servers with one spool would deliver each message twice.
func TestSpoolIsOpenedOnce(t *testing.T) {
	s, hop := spooling(t)
	apptest.WriteFile(t, s.File("second.toml"), strings.Replace(apptest.ReadFile(t, s.Config()), s.Address, kit.Addr(t), 1))
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(s.File("second.toml")) }, t.Output())
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
	s := apptest.New(t)
	if status, _, stderr := command(t, "", "queue", "list", "--config", s.Config()); status != process.ExitFailure || !strings.Contains(stderr, "relay.spool") {
		t.Errorf("status %d: %s", status, stderr)
	}
	if status, _, _ := command(t, "", "queue", "remove", "--config", s.Config()); status != process.ExitUsage {
		t.Errorf("remove without an id: status %d", status)
	}
}
