package fault

import (
	"fmt"
	"sync"
	"testing"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// An attempt is one submission of a message and its outcome.
type attempt struct {
	code  int  // of the reply; 0: the connection ended without one
	ended bool // the client sent the final dot
}

// inDoubt reports whether the hop may have a copy although the client did not get 250.
func (a attempt) inDoubt() bool { return a.ended && (a.code == 0 || a.code/100 == 4) }

// A ledger records the replies to all clients of a test. Any goroutine may use it.
type ledger struct {
	mu       sync.Mutex
	messages map[string][]attempt
}

func newLedger() *ledger { return &ledger{messages: map[string][]attempt{}} }

// submit sends a message once and records the outcome.
func (l *ledger) submit(c *client, mark, user string, size int) (kit.Reply, error) {
	r, ended, err := c.submit(mark, user, size)
	a := attempt{code: r.Code, ended: ended}
	if err != nil {
		a.code = 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages[mark] = append(l.messages[mark], a)
	return r, err
}

// mustSubmit submits a small message, which must get 250.
func (l *ledger) mustSubmit(t *testing.T, c *client, mark string) {
	t.Helper()
	if r, err := l.submit(c, mark, "alice", 0); err != nil || r.Code != 250 {
		t.Errorf("%s: got %v, %v, want 250", mark, r, err)
	}
}

// accepted returns the number of messages that got 250.
func (l *ledger) accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, attempts := range l.messages {
		if attempts[len(attempts)-1].code == 250 {
			n++
		}
	}
	return n
}

// A balance is the comparison of a ledger with the messages that the hop has.
type balance struct {
	sent, attempts, got250, arrived, lost, refused4, refused5, unanswered int

	copies      int // after the first
	after451    int // of copies: the client got 451 because the hop had not confirmed
	afterDeath  int // of copies: the client got no reply
	fromSpool   int // of copies: more than the client sent
	unknown     int // messages at the hop that no client sent
	unconfirmed int // got 250 although the hop replied 250 to no copy
}

// balance compares the ledger with the messages of the hop. The hop has a message whose
// final dot it has read, unless it refused it then.
func (l *ledger) balance(hop *relaytest.Hop) balance {
	l.mu.Lock()
	defer l.mu.Unlock()
	copies, confirmed := map[string]int{}, map[string]bool{}
	for _, m := range hop.Messages() {
		if m.Reply == "" || m.Reply[0] != '4' && m.Reply[0] != '5' {
			copies[markOf(m.Data)]++
		}
	}
	for _, m := range hop.Delivered() {
		confirmed[markOf(m.Data)] = true
	}
	b := balance{sent: len(l.messages)}
	for mark, attempts := range l.messages {
		b.count(attempts, copies[mark], confirmed[mark])
		delete(copies, mark)
	}
	b.unknown = len(copies)
	return b
}

func (b *balance) count(attempts []attempt, copies int, confirmed bool) {
	got250, after451, afterDeath := false, 0, 0
	for _, a := range attempts {
		b.attempts++
		switch {
		case a.code == 250:
			got250 = true
			b.got250++
		case a.code == 0:
			b.unanswered++
		case a.code/100 == 4:
			b.refused4++
		default:
			b.refused5++
		}
		switch {
		case a.inDoubt() && a.code == 0:
			afterDeath++
		case a.inDoubt():
			after451++
		}
	}
	if copies > 0 {
		b.arrived++
	}
	if got250 && copies == 0 {
		b.lost++
	}
	if got250 && !confirmed {
		b.unconfirmed++
	}
	extra := max(0, copies-1)
	b.copies += extra
	b.after451 += min(extra, after451)
	extra -= min(extra, after451)
	b.afterDeath += min(extra, afterDeath)
	b.fromSpool += extra - min(extra, afterDeath)
}

func (b balance) String() string {
	return fmt.Sprintf("ledger: sent %d, attempts %d, got 250 %d, arrived %d, lost %d, duplicates %d "+
		"(after 451: %d, after no reply: %d, by the spool: %d), refused 4xx %d, 5xx %d, unanswered %d",
		b.sent, b.attempts, b.got250, b.arrived, b.lost, b.copies,
		b.after451, b.afterDeath, b.fromSpool, b.refused4, b.refused5, b.unanswered)
}

// settle prints the line of a test, and fails the test for lost, unknown and unexplained
// messages. fromSpool is the number of duplicates that the spool may have made.
func (l *ledger) settle(t *testing.T, hop *relaytest.Hop, fromSpool int) balance {
	t.Helper()
	b := l.balance(hop)
	t.Log(b)
	if b.lost > 0 || b.unconfirmed > 0 {
		t.Errorf("%d messages are lost, and %d got 250 without a 250 of the hop", b.lost, b.unconfirmed)
	}
	if b.fromSpool > fromSpool {
		t.Errorf("%d duplicates that no client sent", b.fromSpool)
	}
	if b.unknown > 0 {
		t.Errorf("%d messages that no client sent", b.unknown)
	}
	return b
}
