package spool

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/relaytest"
	"postern/test/kit"
)

// While no hop replies, a mail is spooled, and it is delivered unchanged.
func TestSpoolsWhileHopIsDown(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	m := toBob("later")
	m.to = append(m.to, "carol@example.com")
	m.options = smtp.MailOptions{Return: smtp.DSNReturnFull, EnvelopeID: "env+201"}
	m.rcpt = smtp.RcptOptions{Notify: []smtp.DSNNotify{smtp.DSNNotifySuccess}, OriginalRecipientType: smtp.DSNAddressTypeRFC822, OriginalRecipient: "b@example.com"}
	r.spooled(m)
	r.deliver()
	r.empty()
	got := r.hop.Delivered()
	if len(got) != 1 || string(got[0].Data) != m.text() || got[0].From != m.from || len(got[0].To) != 2 {
		t.Fatalf("delivered: %+v", got)
	}
	if p := got[0].Params; !strings.Contains(p, "RET=FULL") || !strings.Contains(p, "ENVID=env+201") {
		t.Errorf("MAIL had %q", p)
	}
	if p := got[0].To[1].Params; !strings.Contains(p, "NOTIFY=SUCCESS") || !strings.Contains(p, "ORCPT=RFC822;b@example.com") {
		t.Errorf("RCPT had %q", p)
	}
}

// While the hop replies, the spool changes nothing.
func TestPassesOnWhileHopIsUp(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.deliver()
	if receipt := r.submit(toBob("now")); receipt.Hop != r.hop.URL() {
		t.Errorf("receipt: %+v", receipt)
	}
	for verb, code := range map[string]int{"MAIL": 550, "RCPT": 451, "DATA": 452, ".": 554} {
		r.hop.Handle(func(c relaytest.Command) relaytest.Answer {
			if c.Verb == verb {
				return relaytest.Say(fmt.Sprintf("%d %d.7.1 No", code, code/100))
			}
			return relaytest.Usual
		})
		_, err := submit(t.Context(), r.front, toBob("refused at "+verb))
		wantReply(t, err, code)
	}
	if names := r.files(queued); len(names) > 0 {
		t.Errorf("in the spool: %q", names)
	}
}

// A hop that disconnects before the final dot does not have the message. After the final
// dot it may have it, and then the client decides.
func TestHopDisconnects(t *testing.T) {
	for verb, kept := range map[string]bool{"MAIL": true, "RCPT": true, "DATA": true, ".": false} {
		t.Run(verb, func(t *testing.T) {
			r := newRig(t, t.TempDir(), nil)
			r.hop.Handle(func(c relaytest.Command) relaytest.Answer {
				if c.Verb == verb {
					return relaytest.HangUp()
				}
				return relaytest.Usual
			})
			receipt, err := submit(t.Context(), r.front, toBob(verb))
			if kept != (err == nil) || kept && receipt.Hop != "spool" {
				t.Fatalf("%+v, %v", receipt, err)
			}
			if got := len(r.files(queued)); (got == 1) != kept {
				t.Errorf("%d files", got)
			}
		})
	}
}

// Nothing is spooled for a client that has disconnected.
func TestClientGone(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.hop.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := submit(ctx, r.front, toBob("gone")); err == nil {
		t.Error("accepted")
	}
	r.hop.Start()
}

// Recipients that the hop is not asked about are validated as if it was.
func TestSpooledRecipientsAreValidated(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.hop.Stop()
	m := toBob("x")
	m.to = append(m.to, "carol@example.com> NOTIFY=NEVER")
	_, err := submit(t.Context(), r.front, m)
	wantReply(t, err, 501)
	r.hop.Start()
}

func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		bytes  int64
		size   int64
	}{
		"messages":      {func(c *Config) { c.Messages = 1 }, 1 << 30, 0},
		"bytes":         {nil, 600, 0},
		"size declared": {nil, 1000, 5000},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir(), c.change)
			r.spooled(toBob("first"))
			cfg := Defaults()
			if c.change != nil {
				c.change(&cfg)
			}
			r.spool.Configure(cfg, Sizes{Total: c.bytes})
			r.hop.Stop()
			m := toBob("second")
			m.body = strings.Repeat("x", 500)
			m.options.Size = c.size
			_, err := submit(t.Context(), r.front, m)
			wantReply(t, err, 452)
			r.hop.Start()
		})
	}
}

func TestTooManyRecipients(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.hop.Stop()
	defer r.hop.Start()
	m := toBob("x")
	for i := range 3000 {
		m.to = append(m.to, fmt.Sprintf("%s%d@example.com", strings.Repeat("x", 600), i))
	}
	_, err := submit(t.Context(), r.front, m)
	wantReply(t, err, 452)
}

// After any failure of the disk the client receives 452 4.3.1, and no file remains. That no
// message is lost depends on the order of the steps.
func TestDiskFull(t *testing.T) {
	steps := []string{"create", "write", "sync file", "rename", "sync folder"}
	for _, bad := range steps {
		t.Run(bad, func(t *testing.T) {
			r := newRig(t, t.TempDir(), nil)
			r.spool.folder.at = func(step string) error {
				if step == bad {
					return syscall.ENOSPC
				}
				return nil
			}
			r.hop.Stop()
			_, err := submit(t.Context(), r.front, toBob("x"))
			wantReply(t, err, 452)
			if left := append(r.files(incoming), r.files(queued)...); len(left) > 0 {
				t.Errorf("files remain: %q", left)
			}
			r.hop.Start()
		})
	}
	r := newRig(t, t.TempDir(), nil)
	var got []string
	r.spool.folder.at = func(step string) error { got = append(got, step); return nil }
	r.spooled(toBob("x"))
	if !slices.Equal(got, steps) {
		t.Errorf("steps %q before the 250, want %q", got, steps)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	cfg := Defaults()
	cfg.Dir = dir
	if s, err := Open(cfg, Options{Events: r.spool.events}); err == nil {
		s.Close()
		t.Fatal("a second server opened the spool")
	} else if !strings.Contains(err.Error(), "another process") {
		t.Error(err)
	}
	r.close()
	s, err := Open(cfg, Options{Events: r.spool.events})
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	s.Close()
}

// The messages of one user are delivered in the order of their arrival, and many messages
// of one user do not delay those of another.
func TestOrder(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		r.spooled(toBob(fmt.Sprint(i)))
	}
	other := toBob("other")
	other.login = "dave"
	r.spooled(other)
	r.deliver()
	r.empty()
	got := subjects(r.hop.Delivered())
	at := slices.Index(got, "other")
	if at < 0 || at > 10 {
		t.Errorf("the other user's message was number %d", at)
	}
	if got = slices.DeleteFunc(got, func(s string) bool { return s == "other" }); !slices.Equal(got, want) {
		t.Errorf("order %q", got)
	}
}

// While the hop is down, one message at a time is tried.
func TestOutage(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	for i := range 10 {
		m := toBob(fmt.Sprint(i))
		m.login = fmt.Sprint("user", i)
		r.spooled(m)
	}
	r.hop.Stop()
	r.deliver()
	kit.Eventually(t, "the outage is noticed", func() bool { return strings.Contains(r.log.String(), "spool waits") })
	time.Sleep(100 * time.Millisecond)
	r.hop.Start()
	r.empty()
	if got := len(r.hop.Delivered()); got != 10 {
		t.Errorf("%d delivered", got)
	}
	if n := strings.Count(r.log.String(), "spool waits"); n > 2 {
		t.Errorf("the outage was logged %d times", n)
	}
}

// While the hops of one listener are down, the messages of another one do not wait.
func TestOutageOfOneListener(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.spool.hopsOf = func(listener string) string { return listener }
	r.spool.pace.hopDownPause, r.spool.pace.hopDownPauseMax = time.Minute, time.Minute
	for i := range 5 {
		m := toBob(fmt.Sprint(i))
		m.login, m.listener = fmt.Sprint("user", i), "down"
		r.spooled(m)
	}
	for i := range 3 {
		m := toBob(fmt.Sprint("up", i))
		m.listener = "up"
		r.spooled(m)
	}
	down := relaytest.New(t, relaytest.Options{})
	down.Stop()
	routes := map[string]relay.NextHop{"down": newRoute(t, down.URL()), "up": r.route}
	acquire := func(listener string) (relay.NextHop, func()) { return routes[listener], func() {} }
	r.spool.Deliver(acquire, acquire)
	kit.Eventually(t, "the others are delivered", func() bool { return len(r.hop.Delivered()) == 3 })
	if left := len(r.files(queued)); left != 5 {
		t.Errorf("%d messages are left, want 5", left)
	}
}

// Close in the middle of a delivery ends it, and the message stays in the spool.
func TestCloseWhileDelivering(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	r.spool.pace.closeTime = 20 * time.Millisecond
	r.spooled(toBob("x"))
	asked := make(chan struct{}, 10)
	r.hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "RCPT" {
			asked <- struct{}{}
			return relaytest.Stall()
		}
		return relaytest.Usual
	})
	r.deliver()
	<-asked
	r.close()
	if len(r.files(queued)) != 1 {
		t.Fatal("the message is gone")
	}
	again := newRig(t, dir, nil)
	again.deliver()
	again.empty()
	if got := len(again.hop.Delivered()); got != 1 {
		t.Errorf("%d delivered", got)
	}
}

func TestValidate(t *testing.T) {
	for key, c := range map[string]Config{
		"spool":          {Dir: "spool", Lifetime: time.Hour, Messages: 1},
		"spool_lifetime": {Dir: "/spool", Lifetime: time.Second, Messages: 1},
		"spool_messages": {Dir: "/spool", Lifetime: time.Hour},

		"spool_messages_per_user": {Dir: "/spool", Lifetime: time.Hour, Messages: 1, MessagesPerUser: -1},
	} {
		var got []string
		c.Validate(func(key, _ string) { got = append(got, key) })
		if !slices.Equal(got, []string{key}) {
			t.Errorf("%+v: %q, want %q", c, got, key)
		}
	}
	d := Defaults()
	d.Validate(func(key, why string) { t.Errorf("default %s: %s", key, why) })
}
