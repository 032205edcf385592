package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// sendLate sends a message whose end gets no usable reply in time. overdue is nil if the
// error is not an OverdueError.
func sendLate(t *testing.T, ctx context.Context, r *Router) (overdue *OverdueError) {
	t.Helper()
	tx := beginWith(t, r, &Envelope{Session: "s1", Login: "alice", Sender: "alice@example.org"})
	defer tx.Close()
	rcpt(t, tx, "bob@example.com")
	_, err := tx.Send(ctx, relaytest.Stage(t, testMail))
	if !IsUncertain(err) {
		t.Fatalf("got %v, want uncertainty", err)
	}
	errors.As(err, &overdue)
	return overdue
}

// firstEnd replies a to the end of the first message when letGo is called, and Usual to all
// other commands.
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

func TestLateReply(t *testing.T) {
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
			overdue := sendLate(t, t.Context(), r)
			time.AfterFunc(soon/10, letGo)
			receipt, err := overdue.Await(t.Context())
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

// TestLateReplyAfterTheCaller: the time of the caller is over, not that of the hop.
func TestLateReplyAfterTheCaller(t *testing.T) {
	t.Parallel()
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	handle, letGo := firstEnd(t, relaytest.Say("250 2.0.0 Ok: queued as LATE"))
	hop.Handle(handle)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	overdue := sendLate(t, ctx, r)
	letGo()
	if receipt, err := overdue.Await(t.Context()); err != nil || receipt.Text != "2.0.0 Ok: queued as LATE" {
		t.Errorf("got %v, %v", receipt, err)
	}
}

// TestLateReplyDelaysNoOther: while a reply is awaited, its slot in the pool is free, the
// router can be closed, and the caller can give up.
func TestLateReplyDelaysNoOther(t *testing.T) {
	t.Parallel()
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, func(c *Config) { c.Pool.Connections = 1 }, hop)
	handle, _ := firstEnd(t, relaytest.Usual)
	hop.Handle(handle)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	overdue := sendLate(t, ctx, r)
	deliver(t, r, relaytest.Stage(t, testMail))
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := overdue.Await(ctx); !errors.Is(err, errUncertain) {
		t.Errorf("got %v, want uncertainty", err)
	}
}

// TestLateReplyIsNotAwaited: only after complete silence is there a reply to wait for. The
// other half of half a reply could be taken for a whole one. A connection on which nothing
// is awaited is closed.
func TestLateReplyIsNotAwaited(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer  relaytest.Answer
		overdue bool
	}{
		"silence":              {relaytest.Stall(), true},
		"the hop hangs up":     {relaytest.HangUp(), false},
		"nonsense":             {relaytest.Raw("hello\r\n"), false},
		"half a line":          {relaytest.Raw("550 5.7.1 no "), false},
		"half of several ones": {relaytest.Raw("250-2.0.0 so\r\n"), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hop := relaytest.New(t, relaytest.Options{})
			r := newRouter(t, impatient, hop)
			handle, letGo := firstEnd(t, c.answer)
			letGo()
			hop.Handle(handle)
			overdue := sendLate(t, t.Context(), r)
			if (overdue != nil) != c.overdue {
				t.Errorf("got %v", overdue)
			}
			if overdue != nil {
				if hop.Open() != 1 {
					t.Error("the connection is closed already")
				}
				Abandon(fmt.Errorf("wrapped: %w", overdue))
			}
			kit.Eventually(t, "the connection is closed", func() bool { return hop.Open() == 0 })
		})
	}
}
