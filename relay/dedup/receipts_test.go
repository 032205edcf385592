package dedup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/relay"
)

// A receiptTable is a table of receipts with a clock that a test sets.
type receiptTable struct {
	*Receipts
	t     *testing.T
	clock time.Time
}

func newReceiptTable(t *testing.T) *receiptTable {
	s := &receiptTable{Receipts: NewReceipts(noEvents{}), t: t, clock: time.Unix(1_800_000_000, 0)}
	s.now = func() time.Time { return s.clock }
	return s
}

func keyNamed(name string) key { return key([]byte(fmt.Sprintf("%-32s", name))) }

// from is the envelope of a message of one session.
func from(session, id string) *relay.Envelope { return &relay.Envelope{Session: session, Message: id} }

type noEvents struct{}

func (noEvents) AcceptedLate(*relay.Envelope, int, relay.Receipt, time.Duration) {}
func (noEvents) NoLateAnswer(*relay.Envelope, error)                             {}

// send claims a message that is to be sent.
func (s *receiptTable) send(name string) *entry {
	s.t.Helper()
	e, again, _ := s.try(keyNamed(name), from("first", "id of "+name))
	if e == nil || again {
		s.t.Fatalf("%s must not be sent", name)
	}
	return e
}

// sendAndLose sends a message whose client does not see its 250.
func (s *receiptTable) sendAndLose(name string) {
	s.t.Helper()
	e := s.send(name)
	s.answered(e, relay.Receipt{Hop: "smtp://localhost:25", Text: "queued as " + name})
	s.seen(e, false)
}

// again claims a message that has been sent, with its receipt.
func (s *receiptTable) again(name string) *entry {
	s.t.Helper()
	e, again, _ := s.try(keyNamed(name), from("another", "another id"))
	if e == nil || !again {
		s.t.Fatalf("%s is not known to have been sent", name)
	}
	if e.text != "queued as "+name || e.message != "id of "+name {
		s.t.Errorf("the receipt of %s is %q of %q", name, e.text, e.message)
	}
	return e
}

// wait tries to claim a message that another session is sending.
func (s *receiptTable) wait(name string) {
	s.t.Helper()
	if e, again, _ := s.try(keyNamed(name), from("third", "third id")); e != nil {
		s.t.Fatalf("no session is sending %s (sent before: %v)", name, again)
	}
}

// holds compares the number of messages in the table.
func (s *receiptTable) holds(want int) {
	s.t.Helper()
	if len(s.known) != want {
		s.t.Errorf("%d messages are known, want %d", len(s.known), want)
	}
}

// receiptSteps are lives of messages.
var receiptSteps = map[string]func(*receiptTable){
	"a 250 that was seen": func(s *receiptTable) {
		e := s.send("a")
		s.wait("a")
		s.answered(e, relay.Receipt{Text: "queued as a"})
		s.wait("a")
		s.seen(e, true)
		s.holds(0)
		s.send("a")
	},
	"answered, and its client goes on with the same": func(s *receiptTable) {
		e := s.send("a")
		s.answered(e, relay.Receipt{Text: "queued as a"})
		second := s.send("a") // of the same session
		s.wait("a")
		s.seen(e, false) // nothing is known of it any more
		s.wait("a")
		s.answered(second, relay.Receipt{Text: "queued as a"})
		s.seen(second, false)
		s.seen(s.again("a"), true)
		s.holds(0)
	},
	"not answered yet, and its client comes again": func(s *receiptTable) {
		e := s.send("a") // its client has received 451, and a late reply is awaited
		if again, _, _ := s.try(keyNamed("a"), from("first", "second id")); again != nil {
			s.t.Error("the second does not wait")
		}
		s.forget(e)
		s.send("a")
	},
	"a 250 that was lost": func(s *receiptTable) {
		s.sendAndLose("a")
		s.again("a")
	},
	"lost again, and again, and seen": func(s *receiptTable) {
		s.sendAndLose("a")
		s.seen(s.again("a"), false)
		s.seen(s.again("a"), false)
		e := s.again("a")
		s.wait("a")
		s.seen(e, true)
		s.holds(0)
		s.send("a")
	},
	"refused, or of unknown outcome": func(s *receiptTable) {
		s.forget(s.send("a"))
		s.holds(0)
		s.send("a")
	},
	"a late answer": func(s *receiptTable) {
		e := s.send("a")
		s.wait("a")
		s.arm(e, relay.Receipt{Text: "queued as a"})
		s.again("a")
	},
	"not sent again for ten minutes": func(s *receiptTable) {
		s.sendAndLose("a")
		s.clock = s.clock.Add(lifetime - 1)
		s.seen(s.again("a"), false)
		s.clock = s.clock.Add(1) // counted from the first one
		s.send("a")
	},
	"older than one that was lost later": func(s *receiptTable) {
		s.sendAndLose("a")
		s.clock = s.clock.Add(lifetime - 1)
		s.sendAndLose("b")
		s.seen(s.again("a"), false)
		s.clock = s.clock.Add(1)
		s.send("a")
		s.again("b")
	},
	"expired when another comes": func(s *receiptTable) {
		s.sendAndLose("a")
		s.clock = s.clock.Add(lifetime)
		s.send("b")
		s.holds(1)
	},
	"a table full of lost ones": func(s *receiptTable) {
		s.limit = 2
		s.sendAndLose("a")
		s.sendAndLose("b")
		s.seen(s.again("a"), false) // b is the oldest now
		s.sendAndLose("c")
		s.holds(2)
		s.again("a")
		s.again("c")
	},
	"a table full of messages that are being sent": func(s *receiptTable) {
		s.limit = 2
		a, b := s.send("a"), s.send("b")
		c, d, e := s.send("c"), s.send("c"), s.send("c")
		s.answered(c, relay.Receipt{Text: "queued as c"})
		s.seen(c, false)
		s.arm(d, relay.Receipt{})
		s.forget(e)
		s.holds(2)
		s.forget(a)
		s.seen(b, false)
		s.holds(1)
	},
}

func TestReceipts(t *testing.T) {
	for name, steps := range receiptSteps {
		t.Run(name, func(t *testing.T) { steps(newReceiptTable(t)) })
	}
}

// TestReceiptsWait: a session waits while another one is sending the message, until its
// context ends.
func TestReceiptsWait(t *testing.T) {
	r := NewReceipts(noEvents{})
	first, again, err := r.claim(t.Context(), keyNamed("a"), from("first", "first"))
	if again || err != nil {
		t.Fatalf("got %v, %v", again, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := r.claim(ctx, keyNamed("a"), from("second", "second")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	done := make(chan bool)
	go func() {
		e, again, err := r.claim(t.Context(), keyNamed("a"), from("third", "third"))
		done <- again && err == nil && e.message == "first" && e.text == "Ok"
	}()
	r.answered(first, relay.Receipt{Text: "Ok"})
	r.seen(first, false)
	if !<-done {
		t.Error("the third did not get the receipt of the first")
	}
}

// TestReceiptsConcurrently: many sessions send the same few messages again and again. None
// sends one that another is sending, or whose 250 was lost.
func TestReceiptsConcurrently(t *testing.T) {
	r := NewReceipts(noEvents{})
	r.limit = 8
	var sending, lost [4]atomic.Int32
	var crowd sync.WaitGroup
	for worker := range 16 {
		crowd.Go(func() {
			for turn := range 200 {
				n := (worker + turn) % len(sending)
				e, again, err := r.claim(t.Context(), keyNamed(fmt.Sprint(n)), from(fmt.Sprint("session ", worker), ""))
				if err != nil {
					t.Error(err)
					return
				}
				if sending[n].Add(1) != 1 {
					t.Error("two sessions are sending it")
				}
				if again != (lost[n].Load() == 1) {
					t.Errorf("sent before: %v", again)
				}
				outcome := (worker*7 + turn) % 4
				if outcome == 0 {
					lost[n].Store(1)
				} else {
					lost[n].Store(0)
				}
				sending[n].Add(-1)
				switch {
				case outcome == 0:
					r.seen(e, false)
				case outcome == 1 && !again:
					r.forget(e)
				default:
					r.seen(e, true)
				}
			}
		})
	}
	crowd.Wait()
	if len(r.known) != r.armed.Len() {
		t.Errorf("%d are known and %d are armed", len(r.known), r.armed.Len())
	}
}
