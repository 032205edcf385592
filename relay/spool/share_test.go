package spool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/internal/share"
	"postern/relay/relaytest"
	"postern/test/kit"
)

// sent spools copies of a mail while the hop is down, until n are spooled or one is refused,
// and returns how many are.
func (r *rig) sent(m mail, n int) (spooled int, err error) {
	r.t.Helper()
	for range n {
		if _, err := submit(r.t.Context(), r.front, m); err != nil {
			wantReply(r.t, err, 452)
			return spooled, err
		}
		spooled++
	}
	return spooled, nil
}

func from(login string) mail {
	m := toBob("x")
	m.login = login
	return m
}

func fromAddress(address string) mail {
	m := from("")
	m.remote = netip.AddrPortFrom(netip.MustParseAddr(address), 4000)
	return m
}

func wantText(t *testing.T, err error, want ...string) {
	t.Helper()
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%v, want %q", err, w)
		}
	}
}

func few(n int) func(*Config) { return func(c *Config) { c.Messages = n } }

// One user fills a quarter of the spool. Others, also a user of the same name of another
// listener's stores, spool their messages meanwhile.
func TestShareOfMessages(t *testing.T) {
	r := newRig(t, t.TempDir(), few(40))
	r.hop.Stop()
	n, err := r.sent(from("alice"), 40)
	if n != 10 {
		t.Errorf("%d messages of alice are spooled, want 10", n)
	}
	wantText(t, err, `the share of user "alice" in the spool is used up: 10 messages, and`,
		`remove some with "postern queue", or raise relay.spool_messages_per_user`)
	if n := len(r.files(queued)); n != 10 {
		t.Errorf("%d files", n)
	}
	other := from("alice")
	other.users = "printers"
	for _, m := range []mail{other, from("dave"), fromAddress("192.0.2.1")} {
		if _, err := r.sent(m, 2); err != nil {
			t.Errorf("%+v: %v", m, err)
		}
	}
}

func TestShareOfBytes(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.spool.Configure(Defaults(), Sizes{Total: 1 << 20, Message: 64 << 10})
	r.hop.Stop()
	m := from("alice")
	m.body = strings.Repeat(strings.Repeat("x", 62)+"\r\n", 64<<10/64)
	n, err := r.sent(m, 16)
	if held := r.spool.index.bytes.Held(share.User("", "alice")); n != 3 || held > 1<<18 {
		t.Errorf("%d messages of alice are spooled, %d bytes; want a quarter of 1 MiB", n, held)
	}
	wantText(t, err, "bytes", "raise relay.spool_size_per_user or relay.spool_size")
	m.login = "dave"
	if _, err := r.sent(m, 1); err != nil {
		t.Errorf("another user: %v", err)
	}
	// A message of the largest size is spooled even if it is more than a quarter.
	r.spool.Configure(Defaults(), Sizes{Total: 400 << 10, Message: 64 << 10})
	m.login = "erin"
	if n, _ := r.sent(m, 1); n != 1 {
		t.Error("the first message of a user is refused")
	}
}

// Clients without a login fill a quarter together, and one network half of that.
func TestShareOfNetworks(t *testing.T) {
	r := newRig(t, t.TempDir(), few(80))
	r.hop.Stop()
	all, err := r.sent(fromAddress("192.0.2.1"), 80)
	if all != 10 {
		t.Errorf("%d messages of one network", all)
	}
	wantText(t, err, "clients without a login in 192.0.2.0/24")
	if n, _ := r.sent(fromAddress("192.0.2.9"), 1); n != 0 {
		t.Error("another address of the network has its own share")
	}
	for i := range 40 {
		n, _ := r.sent(fromAddress(fmt.Sprintf("2001:db8:%x::1", i)), 80)
		all += n
	}
	if all != 20 {
		t.Errorf("%d messages of clients without a login", all)
	}
	printer := fromAddress("192.0.2.1")
	printer.maySign = true
	if n, _ := r.sent(printer, 80); n == 0 {
		t.Error("strangers keep out a client in mynetworks")
	}
	if n, err := r.sent(from("alice"), 10); n != 10 {
		t.Errorf("a user: %d, %v", n, err)
	}
}

// The keys for one user replace the quarter.
func TestSharePerUser(t *testing.T) {
	for perUser, want := range map[int]int{3: 3, 20: 20, 100: 20} {
		r := newRig(t, t.TempDir(), func(c *Config) { c.Messages, c.MessagesPerUser = 20, perUser })
		r.hop.Stop()
		if n, _ := r.sent(from("alice"), 30); n != want {
			t.Errorf("%d per user: %d are spooled, want %d", perUser, n, want)
		}
	}
}

// Shares count what is in the files, so a restart forgets nothing, and files of earlier
// versions count, too. Delivered and removed messages give their room back.
func TestSharesSurviveRestart(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, few(40))
	r.hop.Stop()
	for _, m := range []mail{from("alice"), fromAddress("192.0.2.1")} {
		if _, err := r.sent(m, 4); err != nil {
			t.Fatal(err)
		}
	}
	printers := from("alice")
	printers.users = "printers"
	r.sent(printers, 1)
	r.close()
	old := filepath.Join(dir, queued, "00000000000000aaaaaa")
	kit.Must(t, os.WriteFile(old, firstVersionOf("alice"), 0o600))

	again := rigFor(t, dir, few(40), relaytest.New(t, relaytest.Options{}))
	messages := &again.spool.index.messages
	for o, want := range map[share.Owner]int64{
		share.User("", "alice"):                         5,
		share.User("printers", "alice"):                 1,
		share.Client(netip.MustParseAddr("192.0.2.77")): 4,
	} {
		if got := messages.Held(o); got != want {
			t.Errorf("%v holds %d messages, want %d", o, got, want)
		}
	}
	again.hop.Stop()
	if n, _ := again.sent(from("alice"), 40); n > 5 {
		t.Errorf("%d more are spooled", n)
	}
	b, err := Browse(dir)
	kit.Must(t, err)
	kit.Must(t, b.Remove("00000000000000aaaaaa"))
	kit.Must(t, again.spool.scan())
	if n, _ := again.sent(from("alice"), 1); n != 1 {
		t.Error("a removed message still counts")
	}
	again.hop.Start()
	again.deliver()
	again.empty()
	kit.Eventually(t, "nothing is counted", func() bool {
		return messages.Used() == 0 && messages.Owners() == 0 && again.spool.index.bytes.Used() == 0 && again.spool.index.bytes.Owners() == 0
	})
}

// firstVersionOf returns a file of the first version.
func firstVersionOf(login string) []byte {
	const message = "Subject: old\r\n\r\nhello\r\n"
	envelope := fmt.Sprintf(`{"arrived":"2026-01-02T03:04:05Z","reason":"no hop","size":%d,"envelope":{`+
		`"sender":"alice@example.org","login":%q},"to":[{"address":"bob@example.com"}]}`, len(message), login)
	return fmt.Appendf(nil, "postern-spool 1 %d %08x\n%s\n%s%x\n", len(envelope),
		crc32.Checksum([]byte(envelope), castagnoli), envelope, message, sha256.Sum256([]byte(message)))
}

// A report is spooled whatever its user holds, and no room is lost when a message is
// refused or cannot be written.
func TestReportsAreNotRefused(t *testing.T) {
	r := newRig(t, t.TempDir(), few(8))
	r.hop.Stop()
	if n, _ := r.sent(from("alice"), 8); n != 2 {
		t.Fatalf("%d are spooled", n)
	}
	cfg := Defaults()
	cfg.Messages = 1
	r.spool.Configure(cfg, Sizes{Total: 1})
	r.hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "RCPT" && strings.Contains(c.Line, "bob") {
			return relaytest.Say("550 5.1.1 No such user")
		}
		return relaytest.Usual
	})
	r.hop.Start()
	r.deliver()
	r.empty()
	if got := len(r.hop.Delivered()); got != 2 {
		t.Errorf("%d reports, want 2", got)
	}
	kit.Eventually(t, "nothing is counted", func() bool { // a file is removed before it stops counting
		return r.spool.index.messages.Used()+r.spool.index.bytes.Used() == 0
	})
}

func TestRoomAfterDiskError(t *testing.T) {
	r := newRig(t, t.TempDir(), few(8))
	r.hop.Stop()
	r.spool.folder.at = func(string) error { return errors.New("disk full") }
	for range 10 {
		if _, err := submit(t.Context(), r.front, from("alice")); err == nil {
			t.Fatal("spooled")
		}
	}
	if n := r.spool.index.messages.Used() + r.spool.index.bytes.Used(); n != 0 {
		t.Errorf("%d are counted in an empty spool", n)
	}
}
