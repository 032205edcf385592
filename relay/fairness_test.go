package relay

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/test/kit"
)

// noDelay is much longer than a message takes here, and much shorter than the delays of many
// transactions together.
const noDelay = 20 * time.Second

// sendWithoutDelay sends messages one after the other and checks the duration of the slowest.
func sendWithoutDelay(t *testing.T, r *Router, m *message.Message, messages int) {
	t.Helper()
	var slowest time.Duration
	for range messages {
		start := time.Now()
		deliver(t, r, m)
		slowest = max(slowest, time.Since(start))
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("slowest message: %v", slowest)
	if slowest > noDelay {
		t.Errorf("a message of another user took %v", slowest)
	}
}

// Mallory's 200 unknown recipients, in many transactions, do not bring the connections of
// other users near Postfix's error limits.
func TestRefusedRecipientsDelayNoOtherUser(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{Limits: relaytest.PostfixLimits()})
	hop.Handle(refuse)
	r := newRouter(t, func(c *Config) { c.Pool.Connections = 3 }, hop)
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- mallory(r, 200) }()
	sendWithoutDelay(t, r, relaytest.Stage(t, testMail), 40)
	if err := <-done; err != nil {
		t.Error(err)
	}
	// One sleep of Postfix per refusal would be minutes.
	if took := time.Since(start); took > 90*time.Second {
		t.Errorf("took %v", took)
	}
	for _, c := range hop.Messages() {
		if len(c.To) != 1 {
			t.Errorf("a recipient of another user: %+v", c.To)
		}
	}
}

func mallory(r *Router, recipients int) error {
	for i := range recipients {
		tx, err := r.Begin(context.Background(), &Envelope{Login: "mallory", Sender: "mallory@example.org"})
		if err != nil {
			return err
		}
		err = tx.Rcpt(context.Background(), fmt.Sprintf("nobody%d@example.com", i), nil)
		tx.Close()
		var e *smtp.SMTPError
		if !errors.As(err, &e) || e.Code != 550 {
			return fmt.Errorf("recipient %d: %v", i, err)
		}
	}
	return nil
}

// 200 clients that send RCPT and then nothing do not keep a connection for long, even all at
// the same time with a pool of two; and when their bodies arrive, they are delivered.
func TestSlowBodiesDelayNoOtherUser(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{Limits: relaytest.PostfixLimits()})
	r := newRouter(t, func(c *Config) { c.Pool.Connections = 2 }, hop)
	m := relaytest.Stage(t, testMail)
	const slowClients = 200
	asked, bodies, done := make(chan error, slowClients), make(chan struct{}), make(chan error, slowClients)
	for i := range slowClients {
		go func() { done <- slowClient(r, m, i, asked, bodies) }()
	}
	sendWithoutDelay(t, r, m, 10)
	for range slowClients {
		if err := <-asked; err != nil {
			t.Fatal(err)
		}
	}
	close(bodies)
	for range slowClients {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := len(hop.Delivered()); n != slowClients+10 {
		t.Errorf("%d delivered, want %d", n, slowClients+10)
	}
}

func slowClient(r *Router, m *message.Message, i int, asked chan<- error, body <-chan struct{}) error {
	tx, err := r.Begin(context.Background(), &Envelope{Login: "slow", Sender: "slow@example.org"})
	if err != nil {
		return err
	}
	defer tx.Close()
	err = tx.Rcpt(context.Background(), fmt.Sprintf("bob%d@example.com", i), nil)
	asked <- err
	if err != nil {
		return err
	}
	<-body
	_, err = tx.Send(context.Background(), m)
	return err
}

// Postfix counts further RSET as errors after 100 without a delivery in between.
func TestConnectionIsRetiredAfterManyReleases(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{Limits: relaytest.PostfixLimits()})
	r := newRouter(t, func(c *Config) { c.Pool.Connections = 1 }, hop)
	before, _ := hop.Connections()
	for range 2*maxReleases + 1 {
		tx := begin(t, r)
		rcpt(t, tx, "bob@example.com")
		tx.Close()
	}
	if after, _ := hop.Connections(); after < before+2 {
		t.Errorf("%d connections for %d give-backs", after-before+1, 2*maxReleases+1)
	}
}

func TestMessagesPerConnection(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, func(c *Config) { c.Pool.Messages = 3 }, hop)
	m := relaytest.Stage(t, testMail)
	for range 9 {
		deliver(t, r, m)
	}
	per := map[int]int{}
	for _, got := range hop.Delivered() {
		per[got.Conn]++
	}
	if len(per) != 3 {
		t.Errorf("messages by connection: %v, want 3 times 3", per)
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, func(c *Config) { c.Pool.IdleTime = 100 * time.Millisecond }, hop)
	deliver(t, r, relaytest.Stage(t, testMail))
	kit.Eventually(t, "no connection is open", func() bool { return hop.Open() == 0 })
	if n := hop.Count("QUIT"); n == 0 {
		t.Error("left without QUIT")
	}
}

// Waiting for a connection ends with its ctx.
func TestFullPool(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, func(c *Config) { c.Pool.Connections = 1 }, hop)
	hop.Handle(on("RCPT", relaytest.Stall()))
	first := make(chan error, 1)
	busy, release := context.WithCancel(t.Context())
	go func() { first <- begin(t, r).Rcpt(busy, "bob@example.com", nil) }()
	kit.Eventually(t, "the only connection is in use", func() bool { return hop.Count("RCPT") == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := begin(t, r).Rcpt(ctx, "carol@example.com", nil)
	wantTemporary(t, err)
	if !errors.Is(err, errBusy) {
		t.Errorf("the log does not have the reason: %v", err)
	}
	release()
	wantTemporary(t, <-first)
	hop.Handle(nil)
	deliver(t, r, relaytest.Stage(t, testMail))
}
