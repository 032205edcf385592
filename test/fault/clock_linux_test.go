package fault

import (
	"fmt"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

const year = 365 * 24 * time.Hour

// jumps are differences from the real clock, one after the other.
var jumps = []struct {
	name string
	to   time.Duration
}{
	{"an hour ahead", time.Hour},
	{"a day back", -24 * time.Hour},
	{"two days ahead", 48 * time.Hour},
	{"ten years ahead", 10 * year},
	{"twenty years back", -20 * year},
	{"correct again", 0},
}

// When the clock of the machine jumps, sessions and connections continue, new logins
// succeed, no loop spins, and spooled messages arrive, whatever their arrival time
// is then. spool_lifetime is longer than the jumps: a message that is overdue gets one
// attempt, which could fall into the time when the hop is down if the machine is slow.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	hop := relaytest.New(t, relaytest.Options{})
	s := newServer(t, hop.URL(), map[string]string{"relay": fmt.Sprintf("spool = %q\nspool_lifetime = \"200000h\"\npatience = \"200ms\"\n", folder(t))})
	d := &clockTest{server: s, hop: hop, book: newLedger(), clock: new(steppedClock)}
	s.run = d.clock.run
	s.start(t)
	var err error
	if d.idle, err = s.login("alice"); err != nil {
		t.Fatal(err)
	}
	defer d.idle.Close()
	for i, j := range jumps {
		d.spool(t, fmt.Sprintf("spooled-%d", i))
		d.clock.set(j.to)
		stamp := time.Now().Add(j.to).Format("time=2006-")
		d.work(t, fmt.Sprint(i))
		d.rest(t, j.name)
		if s.logged(stamp) == 0 {
			t.Errorf("%s: no log line starts with %s: the clock did not jump", j.name, stamp)
		}
	}
	d.guess(t)
	kit.Eventually(t, "all spooled messages to arrive", func() bool {
		b := d.book.balance(hop)
		return b.lost+b.unconfirmed == 0
	})
	d.book.settle(t, hop, 0)
}

type clockTest struct {
	server *server
	hop    *relaytest.Hop
	book   *ledger
	clock  *steppedClock
	idle   *client // logged in since before the first jump
}

// spool sends a message while the hop is down.
func (d *clockTest) spool(t *testing.T, mark string) {
	t.Helper()
	d.hop.Stop()
	d.book.mustSubmit(t, d.idle, mark)
	d.hop.Start()
}

// work sends a message from the old session and one from a new session.
func (d *clockTest) work(t *testing.T, mark string) {
	t.Helper()
	d.book.mustSubmit(t, d.idle, "old-"+mark)
	c, err := d.server.login("bob")
	if err != nil {
		t.Errorf("login: %v", err)
		return
	}
	defer c.Close()
	d.book.mustSubmit(t, c, "new-"+mark)
}

// rest checks that a server without work does nothing.
func (d *clockTest) rest(t *testing.T, name string) {
	t.Helper()
	const limit = 500 // readings of the clock; a loop that polls makes far more
	before := d.clock.reads.Load()
	time.Sleep(500 * time.Millisecond)
	n := d.clock.reads.Load() - before
	t.Logf("%s: the idle server read the clock %d times in half a second", name, n)
	if n > limit {
		t.Errorf("%s: a loop spins", name)
	}
}

// guess sends a wrong password and sets the clock back by a day. The penalty for the
// next login must be some seconds, not a day.
func (d *clockTest) guess(t *testing.T) {
	t.Helper()
	d.server.write(t, "users", users+"carol:"+kit.Hash+"\n")
	c, err := d.server.connect()
	kit.Must(t, err)
	defer c.Close()
	if r, err := c.authWith("carol", "wrong"); err != nil || r.Code != 535 {
		t.Errorf("wrong password: got %v, %v, want 535", r, err)
	}
	d.clock.set(-24 * time.Hour)
	if r, err := c.auth("carol"); err != nil || r.Code != 235 {
		t.Errorf("right password: got %v, %v, want 235", r, err)
	}
}
