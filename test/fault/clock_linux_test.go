package fault

import (
	"fmt"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

const year = 365 * 24 * time.Hour

// jumps are clocks relative to ours, one after the other.
var jumps = []struct {
	name string
	to   time.Duration
}{
	{"an hour ahead", time.Hour},
	{"a day behind", -24 * time.Hour},
	{"two days ahead", 48 * time.Hour},
	{"ten years ahead", 10 * year},
	{"twenty years behind", -20 * year},
	{"right again", 0},
}

// The clock of the machine jumps. Sessions and connections go on, new logins
// succeed, nothing spins, and what is in the spool arrives, whenever it thinks
// that it came. It may do so for longer than the clock jumps: a message that is
// overdue has one attempt, which a test that stands still for a second would
// leave with the hop down.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	hop := relaytest.New(t, relaytest.Options{})
	s := newServer(t, hop.URL(), map[string]string{"relay": fmt.Sprintf("spool = %q\nspool_lifetime = \"200000h\"\npatience = \"200ms\"\n", folder(t))})
	d := &clockDrill{server: s, hop: hop, book: newLedger(), clock: new(steppedClock)}
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
			t.Errorf("%s: no line of the log begins with %s: the clock has not jumped", j.name, stamp)
		}
	}
	d.guess(t)
	kit.Eventually(t, "all that was spooled", func() bool {
		b := d.book.balance(hop)
		return b.lost+b.unconfirmed == 0
	})
	d.book.settle(t, hop, 0)
}

type clockDrill struct {
	server *server
	hop    *relaytest.Hop
	book   *ledger
	clock  *steppedClock
	idle   *client // logged in since before the first jump
}

// spool sends while there is no hop.
func (d *clockDrill) spool(t *testing.T, mark string) {
	t.Helper()
	d.hop.Stop()
	d.mustSend(t, d.idle, mark)
	d.hop.Start()
}

// work has the old session and a new one send.
func (d *clockDrill) work(t *testing.T, mark string) {
	t.Helper()
	d.mustSend(t, d.idle, "old-"+mark)
	c, err := d.server.login("bob")
	if err != nil {
		t.Errorf("a login: %v", err)
		return
	}
	defer c.Close()
	d.mustSend(t, c, "new-"+mark)
}

// rest wants a server without work to be quiet.
func (d *clockDrill) rest(t *testing.T, name string) {
	t.Helper()
	const most = 500 // readings of the clock; a loop that waits for a time makes far more of them
	before := d.clock.reads.Load()
	time.Sleep(500 * time.Millisecond)
	n := d.clock.reads.Load() - before
	t.Logf("%s: read %d times in half a second at rest", name, n)
	if n > most {
		t.Errorf("%s: it spins", name)
	}
}

// guess has somebody pay for a wrong password by a few seconds, and not by the
// day that the clock is set back meanwhile.
func (d *clockDrill) guess(t *testing.T) {
	t.Helper()
	d.server.write(t, "users", users+"carol:"+kit.Hash+"\n")
	c, err := d.server.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r, err := c.authWith("carol", "wrong"); err != nil || r.Code != 535 {
		t.Errorf("a wrong password: %v, %v", r, err)
	}
	d.clock.set(-24 * time.Hour)
	if r, err := c.auth("carol"); err != nil || r.Code != 235 {
		t.Errorf("the right one: %v, %v", r, err)
	}
}

func (d *clockDrill) mustSend(t *testing.T, c *client, mark string) {
	t.Helper()
	if r, err := d.book.submit(c, mark, "alice", 0); err != nil || r.Code != 250 {
		t.Errorf("%s: %v, %v", mark, r, err)
	}
}
