package relay

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

	"postern/internal/hosturl"
	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/test/kit"
)

// impatience is the timeout in scenes in which a hop may stall.
const impatience = 5 * time.Millisecond

// The bits of a plan.
const (
	planScheme       = 0b11      // 0 and 1: a Unix socket; 2: STARTTLS; 3: TLS
	planTransactions = 0b11 << 2 // less one
	planSlow         = 1 << 4
	planAuth         = 1 << 5
	planSlowBody     = 1 << 6 // the body arrives after the connection has been released
	planImpatient    = 1 << 7
	planTwoHops      = 1 << 8
	planTwoRcpts     = 1 << 9
	planClose        = 1 << 10 // the last transaction is abandoned
	planPipelining   = 1 << 11
)

// FuzzHop sends messages through a pool to a hop that sends wrong replies at any step. A
// Receipt is returned only for a message to which the hop has replied 250, for exactly the
// recipients that both sides agree on; no message is sent twice. Texts for clients are
// bounded and printable, and the relay reads a bounded number of bytes. At the end there is
// no connection and no goroutine left.
func FuzzHop(f *testing.F) {
	for plan := range uint16(1 << 4) {
		f.Add([]byte{}, plan|planAuth|planTwoRcpts|planSlowBody)
		f.Add([]byte{}, plan|planTwoRcpts|planSlowBody|planPipelining)
	}
	// Each wrong reaction at each step of the first connections.
	for step := range 9 {
		for way := range byte(14) {
			script := append(make([]byte, step), way, byte(7*step)+way)
			plan := uint16(step)<<8 | uint16(way)<<2&planTransactions | planImpatient
			f.Add(script, plan)
			f.Add(script, plan|planPipelining)
		}
	}
	for i := range canned {
		f.Add([]byte{0, 0, 0, 0, 0, 1, byte(i)}, uint16(0))                      // to the final dot
		f.Add([]byte{0, 0, 0, 1, byte(i)}, uint16(planTwoRcpts|planSlow))        // to RCPT
		f.Add([]byte{0, 0, 0, 0, 6, byte(i)}, uint16(planSlow))                  // after 354
		f.Add([]byte{0, 0, 1, byte(i)}, uint16(2))                               // to STARTTLS
		f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, byte(i)}, uint16(4))                // to the second MAIL
		f.Add([]byte{0, 0, 1, byte(i)}, uint16(planPipelining|4))                // to MAIL, with RCPT after it
		f.Add([]byte{0, 0, 1, byte(i), 1, byte(i)}, uint16(planPipelining|4))    // to both
		f.Add([]byte{0, 0, 1, 5, 1, byte(i)}, uint16(planPipelining|4))          // to RCPT after a refused MAIL
		f.Add([]byte{0, 0, 0, 0, 0, 1, byte(i)}, uint16(planSlowBody|planClose)) // to RSET, or after it
	}
	s := newHostileTest(f)
	f.Fuzz(func(t *testing.T, script []byte, plan uint16) {
		s.run(t, script, plan)
	})
}

// A hostileTest is a hostile hop and everything that is needed to send messages to it.
type hostileTest struct {
	hop         *hostileHop
	ca          string
	credentials string
	peers       map[uint16]*peer
	messages    []*message.Message
	texts       []string
}

func newHostileTest(t testing.TB) *hostileTest {
	t.Helper()
	config, ca := certificate(t)
	s := &hostileTest{
		hop: newHostileHop(t, config), ca: ca, credentials: writeFile(t, "postern:topsecret\n", 0o600),
		peers: map[uint16]*peer{},
		texts: []string{
			"Subject: one\r\n\r\n.dots\r\n..\r\n.\r\nbye\r\n",
			"Subject: two\r\n\r\n",
			"Subject: three\r\n\r\n" + strings.Repeat("0123456789\r\n", 20000),
			"Subject: four\r\n\r\nQUIT\r\n\xe4\r\n",
		},
	}
	for _, text := range s.texts {
		s.messages = append(s.messages, relaytest.Stage(t, text))
	}
	s.hop.scene.Store(&scene{})
	return s
}

// peer returns the hop with the kind of connection in plan.
func (s *hostileTest) peer(t testing.TB, plan uint16) *peer {
	t.Helper()
	plan &= planScheme | planAuth | planImpatient
	if s.peers[plan] == nil {
		p, err := newPeer(s.url(plan), s.config(plan))
		if err != nil {
			t.Fatal(err)
		}
		s.peers[plan] = p
	}
	return s.peers[plan]
}

func (s *hostileTest) url(plan uint16) HopURL {
	switch plan & planScheme {
	case 2:
		return HopURL{URL: hosturl.URL{Scheme: schemeStartTLS, Host: "127.0.0.1", Address: s.hop.tcp.Addr().String()}}
	case 3:
		return HopURL{URL: hosturl.URL{Scheme: schemeTLS, Host: "127.0.0.1", Address: s.hop.implicit.Addr().String()}}
	}
	return HopURL{URL: hosturl.URL{Scheme: schemeUnix, Host: "", Address: s.hop.unix.Addr().String()}}
}

func (s *hostileTest) config(plan uint16) *Config {
	cfg := Defaults()
	cfg.HeloName, cfg.CAFile, cfg.Patience = "postern.example.org", s.ca, 0
	if plan&planAuth != 0 {
		cfg.Credentials = s.credentials
	}
	if plan&planImpatient != 0 {
		cfg.ConnectTimeout, cfg.CommandTimeout, cfg.DataTimeout = impatience, impatience, impatience
	}
	return &cfg
}

// router returns a router without probes, which would use up the script.
func (s *hostileTest) router(t testing.TB, plan uint16) *Router {
	t.Helper()
	events := NewLog(slog.New(slog.DiscardHandler))
	r := &Router{cfg: *s.config(plan), events: events, done: make(chan struct{})}
	r.stop = func() { close(r.done) }
	for range 1 + plan&planTwoHops/planTwoHops {
		r.hops = append(r.hops, newHop(newPool(s.peer(t, plan), r.cfg.Pool, events), events))
	}
	return r
}

func (s *hostileTest) run(t *testing.T, script []byte, plan uint16) {
	goroutines := runtime.NumGoroutine()
	now := &scene{
		script: script, auth: plan&planAuth != 0,
		slow: plan&planSlow != 0, impatient: plan&planImpatient != 0, pipeline: plan&planPipelining != 0,
	}
	s.hop.scene.Store(now)
	r := s.router(t, plan)
	for i := range int(plan&planTransactions>>2) + 1 {
		s.transact(t, r, i, plan)
	}
	_ = r.Close()
	if !kit.Soon(func() bool { return now.connections() == 0 && runtime.NumGoroutine() <= goroutines }) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		t.Errorf("%d connections are left, %d goroutines instead of %d:\n%s", now.connections(), runtime.NumGoroutine(), goroutines, stacks)
	}
	for _, fault := range now.faults {
		t.Error(fault)
	}
	// The client has not read what is still in the buffers of the socket.
	if now.flooded > 2<<20 && plan&planScheme < 2 {
		t.Errorf("the hop could send %d bytes of an endless reply", now.flooded)
	}
}

// transact sends one message and checks the result.
func (s *hostileTest) transact(t *testing.T, r *Router, i int, plan uint16) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tx, err := r.Begin(ctx, &Envelope{Session: "s", Login: "alice" + strconv.Itoa(i%2), Sender: "alice@example.org"})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	accepted := s.ask(t, ctx, tx, i, plan)
	if inner := tx.(*transaction); plan&planSlowBody != 0 && inner.hold != nil {
		inner.yield(inner.hold) // as its timer would
	}
	if plan&planClose != 0 && i == int(plan&planTransactions>>2) {
		return
	}
	receipt, err := tx.Send(ctx, s.messages[i])
	Abandon(err)
	fitForClient(t, err)
	s.check(t, i, accepted, receipt, err)
}

// ask sends the recipients, whose names contain the number of the message, and returns those
// that the relay reports as accepted.
func (s *hostileTest) ask(t *testing.T, ctx context.Context, tx Transaction, i int, plan uint16) []string {
	to := []string{"bob" + strconv.Itoa(i) + "@example.com"}
	if plan&planTwoRcpts != 0 {
		to = append(to, "carol"+strconv.Itoa(i)+"@example.com")
	}
	var accepted []string
	for _, address := range to {
		err := tx.Rcpt(ctx, address, nil)
		fitForClient(t, err)
		if err == nil {
			accepted = append(accepted, address)
		}
	}
	return accepted
}

var confirmed = regexp.MustCompile(`^(?:354-[^\r\n]*\r\n)*354(?: [^\r\n]*)?\r\n(?:250-[^\r\n]*\r\n)*250(?: [^\r\n]*)?\r\n`)

// check compares the result with the records of the hop.
func (s *hostileTest) check(t *testing.T, i int, accepted []string, receipt Receipt, err error) {
	now := s.hop.scene.Load()
	now.mu.Lock()
	defer now.mu.Unlock()
	arrived, yes, malformed := 0, 0, false
	for _, r := range now.records {
		malformed = malformed || r.malformed
		if len(r.to) == 0 || !strings.HasSuffix(r.to[0], strconv.Itoa(i)+"@example.com") {
			continue
		}
		if r.complete {
			arrived++
			if r.body != s.texts[i] || r.sender != "alice@example.org" {
				t.Errorf("message %d of %q arrives as %.200q", i, r.sender, r.body)
			}
		}
		if confirmed.MatchString(r.sent) {
			yes++
		}
		if err == nil && !r.malformed && r.complete && !slices.Equal(agreed(r, accepted), accepted) {
			t.Errorf("message %d was for %q and went to %q", i, accepted, r.to)
		}
	}
	switch {
	case arrived > 1:
		t.Errorf("message %d was sent %d times", i, arrived)
	case err == nil && len(accepted) == 0:
		t.Errorf("message %d was sent without recipients", i)
	case err == nil && yes == 0 && !malformed:
		t.Errorf("a receipt for message %d, to which the hop has not replied 250", i)
	case isRefusal(err) && yes > 0 && arrived > 0 && !malformed:
		t.Errorf("message %d is refused with %v, and the hop has replied 250 to it", i, err)
	}
	if err == nil && (strings.ContainsFunc(receipt.Text, unfit) || len(receipt.Text) > maxTextLine) {
		t.Errorf("receipt with the text %q", receipt.Text)
	}
}

// agreed returns the recipients of r, which has all that were sent, without those that were
// refused.
func agreed(r *record, accepted []string) []string {
	var all []string
	for _, to := range r.to {
		if slices.Contains(accepted, to) {
			all = append(all, to)
		}
	}
	return all
}

func unfit(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// fitForClient checks that a refusal can be shown to the client, and that any other error is
// one line for the log.
func fitForClient(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	var e *smtp.SMTPError
	if !errors.As(err, &e) {
		if text := err.Error(); strings.ContainsFunc(text, unicode.IsControl) || len(text) > 10_000 || strings.Contains(text, "topsecret") {
			t.Errorf("not fit for the log: %q", text)
		}
		return
	}
	if e.Code < 400 || e.Code > 599 || e.Code == 421 || !fits(e.EnhancedCode, e.Code) {
		t.Errorf("a refusal with %d %v", e.Code, e.EnhancedCode)
	}
	lines := strings.Split(e.Message, "\n")
	for _, line := range lines {
		if len(lines) > maxTextLines || len(line) > maxTextLine || strings.ContainsFunc(line, unfit) {
			t.Errorf("a refusal with the text %q", e.Message)
		}
	}
}
