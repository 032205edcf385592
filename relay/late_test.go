package relay

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// A latecomer takes what Envelope.Late offers.
type latecomer struct {
	takes  bool
	awaits chan Await
	offers atomic.Int32
}

func newLatecomer(takes bool) *latecomer {
	return &latecomer{takes: takes, awaits: make(chan Await, 1)}
}

func (l *latecomer) late(await Await) bool {
	l.offers.Add(1)
	if l.takes {
		l.awaits <- await
	}
	return l.takes
}

// sendLate sends a message that gets no answer in time.
func sendLate(t *testing.T, ctx context.Context, r *Router, l *latecomer) {
	t.Helper()
	tx := beginWith(t, r, &Envelope{Session: "s1", Login: "alice", Sender: "alice@example.org", Late: l.late})
	defer tx.Close()
	rcpt(t, tx, "bob@example.com")
	if _, err := tx.Send(ctx, newMessage(t, testMail)); !IsUncertain(err) {
		t.Fatalf("got %v, want uncertainty", err)
	}
}

// firstEnd gives one answer to the end of the first message, once it is let
// go, and the usual ones to all else.
func firstEnd(t *testing.T, a relaytest.Answer) (handle func(relaytest.Command) relaytest.Answer, letGo func()) {
	held := make(chan struct{})
	letGo = sync.OnceFunc(func() { close(held) })
	t.Cleanup(letGo)
	var ends atomic.Int32
	return func(c relaytest.Command) relaytest.Answer {
		if c.Verb != "." || ends.Add(1) > 1 {
			return relaytest.Usual
		}
		<-held
		return a
	}, letGo
}

func impatient(c *Config) { c.DataTimeout = soon }

func TestLateAnswer(t *testing.T) {
	t.Parallel()
	config, ca := certificate(t)
	for name, c := range map[string]struct {
		hop       relaytest.Options
		say, want string
	}{
		"yes":                  {relaytest.Options{}, "250 2.0.0 Ok: queued as LATE", "2.0.0 Ok: queued as LATE"},
		"yes inside STARTTLS":  {relaytest.Options{TLS: config}, "250 2.0.0 Ok: queued as LATE", "2.0.0 Ok: queued as LATE"},
		"yes inside TLS":       {relaytest.Options{TLS: config, Implicit: true}, "250 2.0.0 Ok: queued as LATE", "2.0.0 Ok: queued as LATE"},
		"yes on several lines": {relaytest.Options{}, "250-2.0.0 Ok:\r\n250 queued as LATE", "2.0.0 Ok: queued as LATE"},
		"no":                   {relaytest.Options{}, "550 5.7.1 Spam", ""},
		"out of place":         {relaytest.Options{}, "354 go ahead", ""},
		"nonsense":             {relaytest.Options{}, "nonsense", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hop := relaytest.New(t, c.hop)
			r := newRouter(t, func(cfg *Config) { impatient(cfg); cfg.CAFile = ca }, hop)
			handle, letGo := firstEnd(t, relaytest.Say(c.say))
			hop.Handle(handle)
			l := newLatecomer(true)
			sendLate(t, t.Context(), r, l)
			time.AfterFunc(soon/10, letGo)
			receipt, err := (<-l.awaits)(t.Context())
			if (err == nil) != (c.want != "") || receipt.Text != c.want {
				t.Errorf("got %q, %v", receipt.Text, err)
			}
			if err == nil && receipt.Hop != hop.URL() {
				t.Errorf("it is from %q", receipt.Hop)
			}
			if n := len(hop.Messages()); n != 1 {
				t.Errorf("sent %d times", n)
			}
			kit.Eventually(t, "the connection is closed", func() bool { return hop.Open() == 0 })
		})
	}
}

// It is the caller's time that is over, not that of the hop.
func TestLateAnswerAfterTheCaller(t *testing.T) {
	t.Parallel()
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	handle, letGo := firstEnd(t, relaytest.Say("250 2.0.0 Ok: queued as LATE"))
	hop.Handle(handle)
	l := newLatecomer(true)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	sendLate(t, ctx, r, l)
	letGo()
	if receipt, err := (<-l.awaits)(t.Context()); err != nil || receipt.Text != "2.0.0 Ok: queued as LATE" {
		t.Errorf("got %v, %v", receipt, err)
	}
}

// While one answer is awaited, its place in the pool is free, the router may
// be closed, and who waits may give up.
func TestLateAnswerHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, func(c *Config) { c.Pool.Connections = 1 }, hop)
	handle, _ := firstEnd(t, relaytest.Usual)
	hop.Handle(handle)
	l := newLatecomer(true)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	sendLate(t, ctx, r, l)
	deliver(t, r, newMessage(t, testMail))
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := (<-l.awaits)(ctx); !errors.Is(err, errUncertain) {
		t.Errorf("got %v, want uncertainty", err)
	}
}

// Only silence is worth the wait, and only if somebody wants to wait. Of half
// an answer, the other half could be taken for a whole one.
func TestLateAnswerIsNotAwaited(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer relaytest.Answer
		takes  bool
		offers int32
	}{
		"nobody wants it":      {relaytest.Stall(), false, 1},
		"the hop hangs up":     {relaytest.HangUp(), true, 0},
		"nonsense":             {relaytest.Raw("hello\r\n"), true, 0},
		"half a line":          {relaytest.Raw("550 5.7.1 no "), true, 0},
		"half of several ones": {relaytest.Raw("250-2.0.0 so\r\n"), true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hop := relaytest.New(t, relaytest.Options{})
			r := newRouter(t, impatient, hop)
			handle, letGo := firstEnd(t, c.answer)
			letGo()
			hop.Handle(handle)
			l := newLatecomer(c.takes)
			sendLate(t, t.Context(), r, l)
			if n := l.offers.Load(); n != c.offers {
				t.Errorf("offered %d times, want %d", n, c.offers)
			}
			kit.Eventually(t, "the connection is closed", func() bool { return hop.Open() == 0 })
		})
	}
}
