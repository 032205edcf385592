package server

import (
	"fmt"
	"strings"
	"testing"

	"postern/policy"
	"postern/test/kit"
)

// sharedSettings are those of a small stage: a quarter of it is 1 MiB, and one message fills
// up to 256 KiB.
func sharedSettings() settings {
	s := defaultSettings()
	s.Server.StageMemory = 1 << 20
	s.Server.StageDisk = 4 << 20
	s.Server.MessageSizeLimit = 256 << 10
	return s
}

// chunk sends n octets of a message with BDAT, and expects the code.
func (c *client) chunk(n int, code string) error {
	line := strings.Repeat("x", 62) + "\r\n"
	c.pending = fmt.Sprintf("BDAT %d\r\n%s", n, strings.Repeat(line, n/64+1)[:n])
	if err := c.flush(); err != nil {
		return err
	}
	return c.expectReply(code)
}

// occupy begins messages of 200,000 octets on n connections, and ends none. It returns how
// many connections the server has accepted the octets of.
func occupy(t *testing.T, n int, open func() *client) (accepted []*client) {
	t.Helper()
	for range n {
		c := open()
		c.must(t, "MAIL FROM:<a@example.org>", "250", "RCPT TO:<b@example.org>", "250")
		if c.chunk(200_000, "250") == nil {
			accepted = append(accepted, c)
		} else if last := c.log[len(c.log)-1]; !strings.HasPrefix(last, "S 452 4.3.1 ") {
			t.Fatalf("%s", last)
		}
	}
	return accepted
}

// One user with many connections fills a quarter of the stage. Other users send meanwhile.
func TestOneUserCannotFillTheStage(t *testing.T) {
	d := newTestServer(t, sharedSettings())
	accepted := occupy(t, 30, d.join)
	if n := len(accepted); n < 4 || n > 6 {
		t.Errorf("%d messages of alice are staged", n)
	}
	if n := d.parts.Stage.OnDisk(); n > 1<<20 {
		t.Errorf("alice occupies %d bytes", n)
	}
	bob := d.dial()
	kit.Must(t, bob.login("bob other"))
	bob.must(t, "MAIL FROM:<b@example.org> SIZE=250000", "250", "RCPT TO:<a@example.org>", "250")
	kit.Must(t, bob.chunk(250_000, "250"))
	bob.must(t, "BDAT 0 LAST", "250")

	alice := d.join()
	alice.must(t, "MAIL FROM:<a@example.org> SIZE=250000", "452")
	line := d.log.First("refused")
	for _, want := range []string{"code=452", "user=alice@example.org", "server.stage_disk", "raise"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %s", want, line)
		}
	}
	// Room is given back when messages end, however they do.
	accepted[0].must(t, "RSET", "250")
	kit.Must(t, accepted[1].reset())
	accepted[2].must(t, "BDAT 0 LAST", "250")
	kit.Eventually(t, "there is room again", func() bool { return d.parts.Stage.OnDisk() < 1<<19 })
	alice.must(t, "MAIL FROM:<a@example.org> SIZE=250000", "250")
}

// A declared size occupies nothing.
func TestDeclaredSizeIsNotReserved(t *testing.T) {
	d := newTestServer(t, sharedSettings())
	for range 30 {
		d.join().must(t, "MAIL FROM:<a@example.org> SIZE=262144", "250", "RCPT TO:<b@example.org>", "250")
	}
	if n := d.parts.Stage.OnDisk() + d.parts.Stage.InMemory(); n != 0 {
		t.Errorf("%d bytes are occupied", n)
	}
}

// All clients without a login fill a quarter together, and leave the rest to users.
func TestClientsWithoutLoginCannotFillTheStage(t *testing.T) {
	s := sharedSettings()
	s.Listener.RequireAuth = false
	kit.Must(t, s.Policy.Recipient.UnmarshalText([]byte("permit_mynetworks, permit_sasl_authenticated, reject")))
	s.Policy.MyNetworks = policy.Networks(mustPrefixes(t, "127.0.0.0/8"))
	d := newTestServer(t, s)
	guest := func() *client {
		c := d.dial()
		kit.Must(t, c.secure())
		c.must(t, "EHLO client.example.org", "250")
		return c
	}
	if n := len(occupy(t, 20, guest)); n < 2 || n > 5 {
		t.Errorf("%d messages of clients without a login are staged", n)
	}
	if n := d.parts.Stage.OnDisk(); n > 1<<20 {
		t.Errorf("they occupy %d bytes", n)
	}
	alice := d.join()
	alice.must(t, "MAIL FROM:<a@example.org> SIZE=250000", "250", "RCPT TO:<b@example.org>", "250")
	kit.Must(t, alice.chunk(250_000, "250"))
	alice.must(t, "BDAT 0 LAST", "250")
}

// A panic in the middle of a transaction gives the room back, once.
func TestRoomAfterPanic(t *testing.T) {
	d := newTestServer(t, sharedSettings())
	c := d.join()
	kit.Must(t, c.mail("a@example.org b@example.org"))
	kit.Must(t, c.chunk(200_000, "250"))
	call := "Send"
	d.panics.Store(&call)
	c.must(t, "BDAT 0 LAST", "421")
	kit.Eventually(t, "the room is free", func() bool { return d.parts.Stage.OnDisk() == 0 && d.isEmpty() })
}
