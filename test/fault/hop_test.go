package fault

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// The stages at which a hop can misbehave, in the order of a transaction. BODY is between
// its reply 354 and the end of the data; "." is its reply to that.
const (
	early = "CONNECT EHLO "   // affects everything that needs a new connection
	late  = "MAIL RCPT DATA " // affects one transaction
	body  = "BODY "
	dot   = ". "
)

// A misbehaviour is a way in which a hop misbehaves.
type misbehaviour struct {
	name   string
	at     string           // the stages
	answer relaytest.Answer // instead of the usual one
	want   string           // the classes of codes that the client may get
	size   int              // of the message
}

const mebibyte = 1 << 20

var misbehaviours = []misbehaviour{
	{"hangs", early + late + body + dot, relaytest.Stall(), "4", 0},
	{"answers late", early + late + dot, relaytest.Usual.After(300 * time.Millisecond), "2", 0},
	{"answers byte by byte", early + late + dot, relaytest.Usual.Trickling(time.Millisecond), "2", 0},
	{"hangs up", early + late + body + dot, relaytest.HangUp(), "4", 0},
	{"half an answer, then silence", early + late + dot, relaytest.Raw("250 O"), "4", 0},
	{"half an answer, then hangs up", early + late + dot, relaytest.Raw("25").AndHangUp(), "4", 0},
	{"garbage", early + late + dot, relaytest.Raw("\x16\x03\x01\x00\xff\x00\r\n\x00\n"), "4", 0},
	{"no code", early + late + dot, relaytest.Say("Ok"), "4", 0},
	{"bare LF", early + late + dot, relaytest.Raw("250 Ok\n"), "4", 0},
	{"100 continuation lines", early + late + dot, relaytest.Raw(strings.Repeat("250-x\r\n", 100) + "250 x\r\n"), "4", 0},
	{"continuation lines without an end", early + late + dot, relaytest.Raw(strings.Repeat("250-x\r\n", 1e6)), "4", 0},
	{"a line of 10 kB", early + late + dot, relaytest.Say("250 " + strings.Repeat("x", 10000)), "4", 0},
	{"two codes in one answer", early + late + dot, relaytest.Say("250-Ok", "451 No"), "4", 0},
	{"two answers", "EHLO " + late, relaytest.Say("250 Ok", "250 Ok"), "4", 0},
	{"two answers", dot, relaytest.Say("250 Ok", "250 Ok"), "2", 0},
	{"code 150", early + late + dot, relaytest.Say("150 Wait"), "4", 0},
	{"code 220", "EHLO " + late + dot, relaytest.Say("220 Hello"), "4", 0},
	{"code 250", "CONNECT DATA", relaytest.Say("250 Ok"), "4", 0},
	{"code 299", early + late + dot, relaytest.Say("299 Fine"), "4", 0},
	{"code 334", early + late + dot, relaytest.Say("334 "), "4", 0},
	{"code 354", early + "MAIL RCPT " + dot, relaytest.Say("354 Go on"), "4", 0},
	{"code 600", early + late + dot, relaytest.Say("600 What"), "4", 0},
	{"code 421", early + late + dot, relaytest.Say("421 4.3.2 Closing").AndHangUp(), "4", 0},
	{"code 450", early + late + dot, relaytest.Say("450 4.2.0 Later"), "4", 0},
	{"code 550", late + dot, relaytest.Say("550 5.7.1 Never"), "5", 0},
	{"code 550", "CONNECT", relaytest.Say("550 5.7.1 Never"), "4", 0}, // concerns postern, not the message
	{"code 550", "EHLO", relaytest.Say("550 5.7.1 Never"), "24", 0},   // HELO may succeed

	{"hangs up in a large message", body, relaytest.HangUp(), "4", mebibyte},
	{"stops reading", body, relaytest.Usual.After(12 * time.Second), "4", 8 * mebibyte},
	{"421 in a large message", body, relaytest.Say("421 4.3.2 Closing").AndHangUp(), "4", mebibyte},
	{"552 in a large message", body, relaytest.Say("552 5.3.4 Too big").AndHangUp(), "45", mebibyte},
}

// A hop misbehaves at one stage, in all ways. The client gets 250 only if the hop has
// taken the message, other clients are served, and after the hop has recovered the next
// attempt in the same session succeeds.
func TestHop(t *testing.T) {
	t.Parallel()
	for _, stage := range strings.Fields(early + late + body + dot) {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			d := newHopTest(t, stage)
			for _, w := range misbehaviours {
				if strings.Contains(" "+w.at, " "+stage) {
					d.try(t, w)
				}
			}
			if stage == "CONNECT" {
				d.refuseConnections(t)
			}
			d.ledger.settle(t, d.hop, 0)
		})
	}
}

// A hopTest is a server whose next hop misbehaves at one stage, with two users whose
// sessions last for the whole test.
type hopTest struct {
	stage      string
	hop        *relaytest.Hop
	ledger     *ledger
	alice, bob *client // the hop misbehaves only for alice
	count      int
}

func newHopTest(t *testing.T, stage string) *hopTest {
	t.Helper()
	d := &hopTest{stage: stage, hop: relaytest.New(t, relaytest.Options{}), ledger: newLedger()}
	sections := map[string]string{"relay": quick, "server": "limits.refused_commands = 1000\n"}
	if d.early() {
		sections["relay"] += "pool.messages = 1\n" // a new connection for each message
	}
	s := startServer(t, d.hop.URL(), sections)
	for user, c := range map[string]**client{"alice": &d.alice, "bob": &d.bob} {
		var err error
		if *c, err = s.login(user); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*c).Close)
	}
	return d
}

func (d *hopTest) early() bool { return strings.Contains(early, d.stage) }

func (d *hopTest) mark() string {
	d.count++
	return fmt.Sprintf("hop-%d", d.count)
}

// try sends a message of alice while the hop misbehaves, and one of bob at the same time.
func (d *hopTest) try(t *testing.T, w misbehaviour) {
	t.Helper()
	if d.early() {
		d.useUp(t)
	}
	d.hop.Handle(d.misbehave(w.answer))
	mark := d.mark()
	waitForBob := d.sendAsBob()
	r, err := d.ledger.submit(d.alice, mark, "alice", w.size)
	if err != nil {
		t.Fatalf("%s: no reply: %v", w.name, err)
	}
	if !strings.Contains(w.want, fmt.Sprint(r.Code/100)) {
		t.Errorf("%s: got %v, want one of the classes %s", w.name, r, w.want)
	}
	if err := waitForBob(); err != nil {
		t.Errorf("%s: the other user: %v", w.name, err)
	}
	d.hop.Handle(nil)
	if r.Code/100 == 4 {
		d.again(t, w.name, mark, w.size)
	}
}

// useUp leaves postern without a connection to the hop: it may have opened one to read
// the extensions of the hop.
func (d *hopTest) useUp(t *testing.T) {
	t.Helper()
	kit.Eventually(t, "all connections to the hop to be closed", func() bool {
		if d.hop.Open() == 0 {
			return true
		}
		d.again(t, "using up a connection", d.mark(), 0)
		return false
	})
}

// again is the second attempt of the client, after the hop has recovered. Its size is
// limited, so that the hop has enough time on a busy machine.
func (d *hopTest) again(t *testing.T, name, mark string, size int) {
	t.Helper()
	if r, err := d.ledger.submit(d.alice, mark, "alice", min(size, mebibyte)); err != nil || r.Code != 250 {
		t.Errorf("%s, after the recovery: got %v, %v, want 250", name, r, err)
	}
}

// misbehave gives the answer a to alice at the stage of the test.
func (d *hopTest) misbehave(a relaytest.Answer) func(relaytest.Command) relaytest.Answer {
	var mu sync.Mutex
	alices := map[int]bool{} // connections
	return func(c relaytest.Command) relaytest.Answer {
		mu.Lock()
		defer mu.Unlock()
		if c.Verb == "MAIL" {
			alices[c.Conn] = strings.HasPrefix(c.Address, "alice@")
		}
		if c.Verb == d.stage && (d.early() || alices[c.Conn]) {
			return a
		}
		return relaytest.Usual
	}
}

// sendAsBob sends a message of bob at the same time, or, if the hop misbehaves at an
// early stage, a NOOP. The function that it returns waits for the reply.
func (d *hopTest) sendAsBob() (wait func() error) {
	mark := d.mark()
	done := make(chan error, 1)
	go func() {
		r, err := kit.Reply{}, error(nil)
		if d.early() {
			r, err = d.bob.Ask("NOOP")
		} else {
			r, err = d.ledger.submit(d.bob, mark, "bob", 0)
		}
		if err == nil && r.Code != 250 {
			err = fmt.Errorf("got %v, want 250", r)
		}
		done <- err
	}()
	return func() error { return <-done }
}

func (d *hopTest) refuseConnections(t *testing.T) {
	t.Helper()
	d.hop.Stop()
	mark := d.mark()
	if r, err := d.ledger.submit(d.alice, mark, "alice", 0); err != nil || r.Code/100 != 4 {
		t.Errorf("refused connections: got %v, %v, want 4xx", r, err)
	}
	d.hop.Start()
	d.again(t, "refused connections", mark, 0)
}
