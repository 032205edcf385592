package fault

import (
	"fmt"
	"sync"
	"testing"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// An attempt is one submission of a message, and what its client was told.
type attempt struct {
	code  int  // 0: the connection ended without an answer
	ended bool // the client has sent the final dot
}

// inDoubt is an attempt after which the client cannot know: it may have led to
// a copy at the hop all the same.
func (a attempt) inDoubt() bool { return a.ended && (a.code == 0 || a.code/100 == 4) }

// A ledger is what the clients of a drill were told. It may be used by many
// goroutines.
type ledger struct {
	mu       sync.Mutex
	messages map[string][]attempt
}

func newLedger() *ledger { return &ledger{messages: map[string][]attempt{}} }

// submit has c send the message once, and writes down the outcome.
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

// accepted is how many messages were told 250.
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

// A balance is a ledger compared with what the hop has.
type balance struct {
	sent, attempts, told, arrived, lost, refused4, refused5, unanswered int

	copies      int // beyond the first
	after451    int // of copies: the client was told 451, since the hop had not confirmed
	afterDeath  int // of copies: the client got no answer
	fromSpool   int // of copies: more than the client has attempted
	strangers   int // messages at the hop that nobody sent
	unconfirmed int // told 250 while the hop has said 250 to no copy of it
}

// balance compares. A message is at the hop when its final dot was, unless the
// hop then refused it.
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
	b.strangers = len(copies)
	return b
}

func (b *balance) count(attempts []attempt, copies int, confirmed bool) {
	told, after451, afterDeath := false, 0, 0
	for _, a := range attempts {
		b.attempts++
		switch {
		case a.code == 250:
			told = true
			b.told++
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
	if told && copies == 0 {
		b.lost++
	}
	if told && !confirmed {
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
	return fmt.Sprintf("ledger: sent %d, attempts %d, told 250 %d, arrived %d, lost %d, duplicates %d "+
		"(after 451: %d, after no answer: %d, by the spool: %d), refused 4xx %d, 5xx %d, unanswered %d",
		b.sent, b.attempts, b.told, b.arrived, b.lost, b.copies,
		b.after451, b.afterDeath, b.fromSpool, b.refused4, b.refused5, b.unanswered)
}

// settle prints the line of a drill and fails it for what must not be. fromSpool
// is how many duplicates the spool may have made.
func (l *ledger) settle(t *testing.T, hop *relaytest.Hop, fromSpool int) balance {
	t.Helper()
	b := l.balance(hop)
	t.Log(b)
	if b.lost > 0 || b.unconfirmed > 0 {
		t.Errorf("%d messages are lost, and %d were told 250 without the hop's", b.lost, b.unconfirmed)
	}
	if b.fromSpool > fromSpool {
		t.Errorf("%d duplicates that no client has asked for", b.fromSpool)
	}
	if b.strangers > 0 {
		t.Errorf("%d messages that nobody sent", b.strangers)
	}
	return b
}
