package relay

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"postern/relay/relaytest"
	"postern/test/kit"
)

func TestFailOver(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]relaytest.Answer{
		"busy":    relaytest.Say("421 4.3.2 All server ports are busy").AndHangUp(),
		"refused": relaytest.Say("554 5.7.1 No service for you").AndHangUp(),
		"garbage": relaytest.Raw("HTTP/1.1 400 Bad Request\r\n"),
		"silence": relaytest.Stall(),
		"closed":  relaytest.HangUp(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := relaytest.New(t, relaytest.Options{}), relaytest.New(t, relaytest.Options{})
			first.Handle(on("CONNECT", answer))
			var log kit.LogBuffer
			r := newLoggedRouter(t, NewLog(log.Logger()), func(c *Config) { c.ConnectTimeout = soon }, first, second)
			for range 3 {
				if receipt := deliver(t, r, relaytest.Stage(t, testMail)); receipt.Hop != second.URL() {
					t.Errorf("delivered to %s", receipt.Hop)
				}
			}
			if n := log.Count("next hop down"); n != 1 {
				t.Errorf("logged %d times that the hop is down, want once", n)
			}
			first.Handle(nil)
			r.Probe(t.Context())
			if receipt := deliver(t, r, relaytest.Stage(t, testMail)); receipt.Hop != first.URL() {
				t.Errorf("the first hop is up again, but %s got it", receipt.Hop)
			}
			if n := log.Count("next hop up"); n != 1 {
				t.Errorf("logged %d times that the hop is up, want once", n)
			}
		})
	}
}

// In the middle of a transaction, too, another hop is used, with all recipients.
func TestFailOverInTransaction(t *testing.T) {
	first, second := relaytest.New(t, relaytest.Options{}), relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, first, second)
	tx := begin(t, r)
	rcpt(t, tx, "bob@example.com", "carol@example.com")
	first.Stop()
	receipt, err := tx.Send(t.Context(), relaytest.Stage(t, testMail))
	if err != nil {
		t.Fatal(err)
	}
	if got := second.Delivered(); receipt.Hop != second.URL() || len(got) != 1 || len(got[0].To) != 2 {
		t.Errorf("receipt %+v, delivered %+v", receipt, got)
	}
}

// After a refusal, no other hop is asked.
func TestNoFailOverForARefusal(t *testing.T) {
	first, second := relaytest.New(t, relaytest.Options{}), relaytest.New(t, relaytest.Options{})
	first.Handle(on("RCPT", relaytest.Say("450 4.2.0 Greylisted")))
	tx := begin(t, newRouter(t, nil, first, second))
	wantRefusal(t, tx.Rcpt(t.Context(), "bob@example.com", nil), "450 4.2.0 Greylisted")
	if second.Count("MAIL") != 0 {
		t.Error("the second hop was asked")
	}
}

// Even without patience every hop is tried once.
func TestFailOverWithoutPatience(t *testing.T) {
	first, second := relaytest.New(t, relaytest.Options{}), relaytest.New(t, relaytest.Options{})
	r := newRouter(t, func(c *Config) { c.Patience = 0 }, first, second)
	first.Stop()
	deliver(t, r, relaytest.Stage(t, testMail))
}

func TestCaps(t *testing.T) {
	first := relaytest.New(t, relaytest.Options{Extensions: []string{"SIZE 5000000", "8BITMIME", "SMTPUTF8", "DSN"}})
	second := relaytest.New(t, relaytest.Options{Extensions: []string{"SIZE 3000000", "8BITMIME", "SMTPUTF8"}})
	second.Stop()
	r := newRouter(t, nil, first, second)
	if got, want := r.Caps(), (Caps{Known: true, Size: 5000000, DSN: true, SMTPUTF8: true, EightBit: true}); got != want {
		t.Errorf("with one hop known: %+v, want %+v", got, want)
	}
	second.Start()
	r.Probe(t.Context())
	if got, want := r.Caps(), (Caps{Known: true, Size: 3000000, SMTPUTF8: true, EightBit: true}); got != want {
		t.Errorf("with both known: %+v, want %+v", got, want)
	}
	second.Stop()
	r.Probe(t.Context())
	if got := r.Caps(); got.Size != 3000000 {
		t.Errorf("what a hop offered is forgotten when it is down: %+v", got)
	}
}

func TestCapsOfOddHops(t *testing.T) {
	for extensions, want := range map[string]Caps{
		"":                    {Known: true},
		"SIZE":                {Known: true},
		"SIZE 0":              {Known: true},
		"SIZE 99999999999999": {Known: true, Size: 99999999999999},
		"SIZE -1":             {Known: true},
		"SIZE x":              {Known: true},
		"SMTPUTF8":            {Known: true},
		"8BITMIME,SMTPUTF8":   {Known: true, EightBit: true, SMTPUTF8: true},
	} {
		hop := relaytest.New(t, relaytest.Options{Extensions: strings.Split(extensions, ",")})
		if got := newRouter(t, nil, hop).Caps(); got != want {
			t.Errorf("%s: %+v, want %+v", extensions, got, want)
		}
	}
}

func TestNoHopKnown(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	hop.Stop()
	if got := newRouter(t, nil, hop).Caps(); got != (Caps{}) {
		t.Errorf("%+v", got)
	}
}

// A hop that was down at the start is detected in the background.
func TestBackgroundProbe(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	hop.Stop()
	r := newRouter(t, nil, hop)
	hop.Start()
	kit.Eventually(t, "the hop is asked again", func() bool { return r.Caps().Known })
}

func TestClosedRouter(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	tx := begin(t, r)
	rcpt(t, tx, "bob@example.com")
	r.Close()
	if _, err := r.Begin(context.Background(), &Envelope{}); err == nil {
		t.Error("Begin after Close")
	}
	if _, err := tx.Send(t.Context(), relaytest.Stage(t, testMail)); err != nil {
		t.Errorf("a transaction that has its connection: %v", err)
	}
	kit.Eventually(t, "no connection is left", func() bool { return hop.Open() == 0 })
}

// A step is a NextHop that records its name in Begin and Close.
type step struct {
	NextHop
	name string
	log  *[]string
	err  error
}

func (s step) Begin(ctx context.Context, e *Envelope) (Transaction, error) {
	*s.log = append(*s.log, "begin "+s.name)
	if s.NextHop == nil {
		return nil, nil
	}
	return s.NextHop.Begin(ctx, e)
}

func (s step) Close() error {
	*s.log = append(*s.log, "close "+s.name)
	return s.err
}

// A message meets the steps in the order of the list. They are closed in the reverse of
// the order in which they were made, and an error of one does not keep the others open.
func TestChain(t *testing.T) {
	var log []string
	broken := errors.New("broken")
	decorator := func(name string) Decorator {
		return func(next NextHop) NextHop { return step{next, name, &log, broken} }
	}
	open := func(next NextHop) NextHop { return struct{ NextHop }{next} } // has no Close
	c := NewChain(step{name: "last", log: &log}, decorator("first"), nil, open, decorator("second"))
	if _, err := c.Begin(context.Background(), &Envelope{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); !errors.Is(err, broken) {
		t.Errorf("Close: %v", err)
	}
	want := []string{"begin first", "begin second", "begin last", "close first", "close second", "close last"}
	if !slices.Equal(log, want) {
		t.Errorf("got %q, want %q", log, want)
	}
}

func TestQueueID(t *testing.T) {
	for text, want := range map[string]string{
		"2.0.0 Ok: queued as 4ZxY1b2c3d":  "4ZxY1b2c3d",
		"Ok: queued as 4ZxY (from alice)": "4ZxY",
		"OK id=1abc-0001":                 "",
		"":                                "",
	} {
		if got := (&Receipt{Text: text}).QueueID(); got != want {
			t.Errorf("%q has the id %q", text, got)
		}
	}
}
