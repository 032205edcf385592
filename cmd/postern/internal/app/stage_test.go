package app

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"postern/relay/relaytest"
	"postern/server"
	"postern/test/kit"
)

// Another stage_disk is in force at once, also on open connections, and what is staged
// still counts.
func TestReloadOfStageDisk(t *testing.T) {
	s := newSite(t)
	s.certify(t, "cert", 1)
	s.users(t, "users", "alice", "bob")
	hop := relaytest.New(t, relaytest.Options{})
	address := kit.Addr(t)
	write := func(disk string) {
		s.write(t, fmt.Sprintf("[server]\nmessage_size_limit = \"200KiB\"\nstage_disk = %q\n[[listener]]\nname = \"a\"\naddress = [%q]\n",
			disk, address)+s.shared("users", hop))
	}
	write("200KiB")
	s.start(t)
	alice, bob := connect(t, address, false), connect(t, address, false)
	alice.login(t, 235, "alice")
	bob.login(t, 235, "bob")
	alice.want(t, 250, "MAIL FROM:<me@example.org>")
	alice.want(t, 250, "RCPT TO:<you@example.com>")
	text := strings.Repeat("A message.\r\n", 150<<10/12)
	alice.want(t, 250, fmt.Sprintf("BDAT %d\r\n%s", len(text), text[:len(text)-2]))
	if text := bob.want(t, 452, "MAIL FROM:<me@example.org> SIZE=200000"); !strings.Contains(text, "4.3.1") {
		t.Errorf("the reply is %q", text)
	}
	write("2MiB")
	s.reload(t, "msg=reloaded")
	bob.want(t, 250, "MAIL FROM:<me@example.org> SIZE=200000")
	write("300KiB")
	s.reload(t, "msg=reloaded")
	bob.want(t, 250, "RSET")
	bob.want(t, 452, "MAIL FROM:<me@example.org> SIZE=200000")
	alice.want(t, 250, "RSET")
	bob.want(t, 250, "MAIL FROM:<me@example.org> SIZE=200000")
}

// The users of a listener with its own stores are other users than those of the others.
func TestUsersOfListeners(t *testing.T) {
	s := newSite(t)
	hop := relaytest.New(t, relaytest.Options{})
	s.certify(t, "cert", 11)
	s.users(t, "staff", "alice")
	s.users(t, "printers", "alice")
	s.writeTwo(t, "127.0.0.1:0", "127.0.0.1:0", "cert", hop, hop)
	d := s.daemon(t)
	defer d.Close()
	g, err := d.app.Build(d.cfg)
	kit.Must(t, err)
	parts := d.app.Activate(g)
	for i, want := range []string{"", "printers"} {
		if got := parts.Listeners[i].Users; got != want {
			t.Errorf("users of %s: %q, want %q", parts.Listeners[i].Name, got, want)
		}
	}
}

// The server chooses half of what is free, and what it needs for one message at least.
func TestAutoStageDisk(t *testing.T) {
	cfg := server.Defaults()
	for _, c := range []struct{ auto, disk, want int64 }{
		{1 << 30, 0, 1 << 30},
		{1 << 20, 0, 50 << 20},
		{1 << 30, 100 << 20, 100 << 20},
	} {
		cfg.StageDisk = server.Size(c.disk)
		if got := stageLimits(&cfg, c.auto).Disk; got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if got := autoStageDisk(t.TempDir()); got > 4<<30 || got%(1<<20) != 0 {
		t.Errorf("chosen: %d", got)
	}
	if got := autoStageDisk("/nonexistent"); got != 4<<30 {
		t.Errorf("for a folder that is not there: %d", got)
	}
}

func TestCheckStageSpace(t *testing.T) {
	cfg := server.Defaults()
	cfg.StageDir = t.TempDir()
	cfg.MessageSizeLimit = 1 << 20
	if text, warning := CheckStageSpace(cfg.StageDir, &cfg); warning != "" || !strings.Contains(text, "together") {
		t.Errorf("%q, %q", text, warning)
	}
	cfg.StageDisk = 1 << 50
	if _, warning := CheckStageSpace(cfg.StageDir, &cfg); !strings.Contains(warning, "free, and server.stage_disk is 1048576GiB; name a folder with more space in server.stage_dir") {
		t.Errorf("more than there is: %q", warning)
	}
}

func TestCheckStageSpaceInMemory(t *testing.T) {
	cfg := server.Defaults()
	cfg.StageDir = t.TempDir()
	kit.SmallDisk(t, cfg.StageDir, 64<<10)
	for disk, want := range map[server.Size]string{
		100 << 20: "which is a tmpfs and thus memory, has 64MiB in all, and server.stage_disk is 100MiB; name a folder on a disk in server.stage_dir",
		60 << 20:  "with less than 200MiB, which is 4 messages of server.message_size_limit",
		0:         "has 64MiB free, and the limit for large messages is 50MiB",
	} {
		cfg.StageDisk = disk
		if _, warning := CheckStageSpace(cfg.StageDir, &cfg); !strings.Contains(warning, want) {
			t.Errorf("%s: %q, want %q", disk, warning, want)
		}
	}
	kit.Must(t, os.WriteFile(cfg.StageDir+"/file", make([]byte, 10<<20), 0o600))
	cfg.StageDisk, cfg.MessageSizeLimit = 60<<20, 1<<20
	if _, warning := CheckStageSpace(cfg.StageDir, &cfg); !strings.Contains(warning, "has 54MiB free") {
		t.Errorf("%q", warning)
	}
}

// A user who has the share of the spool already gets 452 while no next hop answers, and the
// log has the next step. Others are served.
func TestShareOfSpool(t *testing.T) {
	s := newSite(t)
	s.certify(t, "cert", 1)
	s.users(t, "users", "alice", "bob")
	hop := relaytest.New(t, relaytest.Options{})
	address := kit.Addr(t)
	s.write(t, fmt.Sprintf("[[listener]]\nname = \"a\"\naddress = [%q]\n", address)+s.shared("users", hop)+
		fmt.Sprintf("patience = \"20ms\"\nspool = %q\nspool_messages = 8\n", s.file("spool")))
	s.start(t)
	hop.Stop()
	alice, bob := connect(t, address, false), connect(t, address, false)
	alice.login(t, 235, "alice")
	bob.login(t, 235, "bob")
	alice.send(t, "one")
	alice.send(t, "two")
	alice.want(t, 250, "MAIL FROM:<me@example.org>")
	if text := alice.want(t, 452, "RCPT TO:<you@example.com>"); !strings.Contains(text, "4.3.1") {
		t.Errorf("the reply is %q", text)
	}
	line := s.log.First("msg=refused")
	for _, want := range []string{"user=alice", "share of user", "postern queue", "relay.spool_messages_per_user"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %s", want, line)
		}
	}
	bob.send(t, "three")
	hop.Start()
	kit.Eventually(t, "all are delivered", func() bool { return len(hop.Delivered()) == 3 })
	alice.want(t, 250, "RSET")
	alice.send(t, "four")
}
