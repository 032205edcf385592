package relay

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/test/kit"
)

// beginSlow begins a transaction and waits until its connection has been released.
func beginSlow(t *testing.T, r *Router, hop *relaytest.Hop, to ...string) Transaction {
	t.Helper()
	before := hop.Count("RSET")
	tx := begin(t, r)
	rcpt(t, tx, to...)
	kit.Eventually(t, "the connection is released", func() bool { return hop.Count("RSET") > before })
	return tx
}

func TestSlowBody(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	before := hop.Count("EHLO")
	tx := beginSlow(t, r, hop, "bob@example.com", "carol@example.com")
	if _, err := tx.Send(t.Context(), relaytest.Stage(t, testMail)); err != nil {
		t.Fatal(err)
	}
	if got := hop.Delivered(); len(got) != 1 || len(got[0].To) != 2 {
		t.Errorf("delivered %+v", got)
	}
	// Releasing the connection takes only one RSET.
	if hop.Count("EHLO") != before {
		t.Errorf("EHLO again:\n%s", strings.Join(hop.Commands(), "\n"))
	}
}

func TestSlowRecipients(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	tx := beginSlow(t, newRouter(t, nil, hop), hop, "bob@example.com")
	rcpt(t, tx, "carol@example.com")
	if _, err := tx.Send(t.Context(), relaytest.Stage(t, testMail)); err != nil {
		t.Fatal(err)
	}
	if got := hop.Delivered(); len(got) != 1 || len(got[0].To) != 2 {
		t.Errorf("delivered %+v", got)
	}
}

func TestAllOrNothingAtReplay(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	tx := beginSlow(t, r, hop, "bob@example.com", "nobody1@example.com", "carol@example.com", "nobody2@example.com")
	hop.Handle(refuse)
	_, err := tx.Send(t.Context(), relaytest.Stage(t, testMail))
	wantRefusal(t, err, "550 5.1.1 <nobody1@example.com>, <nobody2@example.com> refused, message not sent:")
	if n := len(hop.Messages()); n != 0 {
		t.Errorf("%d messages were sent", n)
	}
	hop.Handle(nil)
	deliver(t, r, relaytest.Stage(t, testMail)) // the connection has no transaction open
	if got := hop.Delivered(); len(got) != 1 || len(got[0].To) != 1 {
		t.Errorf("delivered %+v", got)
	}
}

// If the sender is refused when MAIL is repeated, the refusal is returned, and the connection
// stays in use.
func TestSenderRefusedAtReplay(t *testing.T) {
	for how, options := range pipeliners {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			hop := relaytest.New(t, options)
			r := newRouter(t, nil, hop)
			tx := beginSlow(t, r, hop, "bob@example.com", "carol@example.com")
			hop.Handle(on("MAIL", relaytest.Say("550 5.7.1 No")))
			_, err := tx.Send(t.Context(), relaytest.Stage(t, testMail))
			wantRefusal(t, err, "550 5.7.1 No")
			hop.Handle(nil)
			deliver(t, r, relaytest.Stage(t, testMail))
			if total, _ := hop.Connections(); total != 1 || len(hop.Delivered()) != 1 {
				t.Errorf("%d delivered over %d connections", len(hop.Delivered()), total)
			}
		})
	}
}

func TestTemporaryRefusalHasPrecedence(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	tx := beginSlow(t, newRouter(t, nil, hop), hop, "nobody@example.com", "busy@example.com")
	hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "RCPT" && c.Address == "busy@example.com" {
			return relaytest.Say("450 4.2.1 Mailbox busy")
		}
		return refuse(c)
	})
	_, err := tx.Send(t.Context(), relaytest.Stage(t, testMail))
	wantRefusal(t, err, "450 4.2.1 <nobody@example.com>, <busy@example.com> refused")
}

// The timer of the hold ends at the same time as the caller uses the transaction.
func TestHoldEndsDuringCall(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, func(c *Config) { c.Pool.Connections = 2 }, hop)
	m := relaytest.Stage(t, testMail)
	done := make(chan error)
	const users = 8
	for user := range users {
		go func() {
			var err error
			for i := 0; i < 6 && err == nil; i++ {
				err = meet(r, m, fmt.Sprint("user", user%4), time.Duration(user+i)*2*time.Millisecond)
			}
			done <- err
		}()
	}
	for range users {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := len(hop.Delivered()); n != users*6 {
		t.Errorf("%d delivered, want %d", n, users*6)
	}
	if _, peak := hop.Connections(); peak > 3 { // one may still wait for the reply to QUIT
		t.Errorf("%d connections at once", peak)
	}
}

// meet makes a transaction with a pause between RCPT and the body that is about as long as
// crowdedHold.
func meet(r *Router, m *message.Message, login string, pause time.Duration) error {
	tx, err := r.Begin(context.Background(), &Envelope{Login: login, Sender: "alice@example.org"})
	if err != nil {
		return err
	}
	defer tx.Close()
	for _, to := range []string{"bob@example.com", "carol@example.com"} {
		if err := tx.Rcpt(context.Background(), to, nil); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	_, err = tx.Send(context.Background(), m)
	return err
}
