package server

import (
	"context"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
	"postern/server/auth"
	"postern/test/kit"
)

var (
	helloSteps = []string{"EHLO client.example.org", "250"}
	mailSteps  = []string{"MAIL FROM:<alice@example.org>", "250", "RCPT TO:<bob@example.org>", "250"}
)

// A serviceCase is a way in which a session uses services, and a way in which that ends.
type serviceCase struct {
	noLogin  bool     // do not log in
	steps    []string // for converse
	acquired int32    // by the steps
	held     int32    // after them
	end      func(*testServer, *client) error
}

var serviceCases = map[string]serviceCase{
	"EHLO":                     {noLogin: true, steps: helloSteps, acquired: 1},
	"AUTH":                     {noLogin: true, steps: []string{"AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235"}, acquired: 1},
	"AUTH under way":           {noLogin: true, steps: []string{"AUTH PLAIN", "334"}, acquired: 1, held: 1},
	"AUTH under way, reset":    {noLogin: true, steps: []string{"AUTH PLAIN", "334"}, acquired: 1, held: 1, end: reset},
	"AUTH under way, shutdown": {noLogin: true, steps: []string{"AUTH PLAIN", "334"}, acquired: 1, held: 1, end: shutdownAtOnce},
	"AUTH under way, dropped":  {noLogin: true, steps: []string{"AUTH PLAIN", "334"}, acquired: 1, held: 1, end: drop},
	"AUTH with a wrong password": {noLogin: true, acquired: 3, steps: []string{
		"AUTH PLAIN AGFsaWNlAHdyb25n", "535", "AUTH PLAIN AGFsaWNlAHdyb25n", "535", "AUTH PLAIN AGFsaWNlAHdyb25n", "535"}},
	"AUTH that is cancelled":       {noLogin: true, steps: []string{"AUTH PLAIN", "334", "*", "501"}, acquired: 1},
	"AUTH that is not base64":      {noLogin: true, steps: []string{"AUTH PLAIN", "334", "???", "501", "AUTH PLAIN ???", "501"}, acquired: 2},
	"AUTH that is malformed":       {noLogin: true, steps: []string{"AUTH PLAIN AAAA", "501"}, acquired: 1},
	"AUTH of an unknown mechanism": {noLogin: true, steps: []string{"AUTH X-UNKNOWN", "504"}, acquired: 1},
	"AUTH with a store that fails": {noLogin: true, steps: []string{"AUTH PLAIN AGRvd24AeA==", "454"}, acquired: 1},

	"MAIL":                     {steps: mailSteps[:2]},
	"a refused MAIL":           {noLogin: true, steps: []string{"MAIL FROM:<alice@example.org>", "530"}},
	"RCPT":                     {steps: mailSteps, acquired: 1, held: 1},
	"RCPT, reset":              {steps: mailSteps, acquired: 1, held: 1, end: reset},
	"RCPT, shutdown":           {steps: mailSteps, acquired: 1, held: 1, end: shutdownAtOnce},
	"RCPT, dropped":            {steps: mailSteps, acquired: 1, held: 1, end: drop},
	"RCPT, too many errors":    {steps: mailSteps, acquired: 1, held: 1, end: makeErrors},
	"RCPT and QUIT":            {steps: append(mailSteps, "QUIT", "221"), acquired: 1},
	"RCPT and RSET":            {steps: append(mailSteps, "RSET", "250"), acquired: 1},
	"RCPT and EHLO":            {steps: append(mailSteps, "EHLO client.example.org", "250"), acquired: 2},
	"RCPT and STARTTLS":        {steps: append(mailSteps, "STARTTLS", "503"), acquired: 1, held: 1},
	"two RCPTs":                {steps: append(mailSteps, "RCPT TO:<carol@example.org>", "250"), acquired: 1, held: 1},
	"DATA, hung up":            {steps: append(mailSteps, "DATA", "354"), acquired: 1, held: 1, end: hangUp},
	"DATA, reset":              {steps: append(mailSteps, "DATA", "354"), acquired: 1, held: 1, end: reset},
	"DATA, shutdown":           {steps: append(mailSteps, "DATA", "354"), acquired: 1, held: 1, end: shutdownAtOnce},
	"BDAT, hung up":            {steps: append(mailSteps, "BDAT 3\r\nx", "250"), acquired: 1, held: 1, end: hangUp},
	"BDAT, shutdown":           {steps: append(mailSteps, "BDAT 3\r\nx", "250"), acquired: 1, held: 1, end: shutdownAtOnce},
	"a message":                {steps: append(mailSteps, "DATA", "354", "\r\nx\r\n.", "250"), acquired: 1},
	"a message with a NUL":     {steps: append(mailSteps, "DATA", "354", "\r\n\x00\r\n.", "550"), acquired: 1},
	"two messages":             {steps: append(append(mailSteps, "BDAT 5 LAST\r\n\r\nx", "250"), append(mailSteps, "BDAT 5 LAST\r\n\r\nx", "250")...), acquired: 2},
	"a message, then RCPT":     {steps: append(append(mailSteps, "BDAT 5 LAST\r\n\r\nx", "250"), mailSteps...), acquired: 2, held: 1},
	"a RCPT that is malformed": {steps: []string{"MAIL FROM:<alice@example.org>", "250", "RCPT TO:<>", "501"}},
}

func hangUp(_ *testServer, c *client) error { return c.raw.Close() }

func reset(_ *testServer, c *client) error { return c.reset() }

func drop(d *testServer, c *client) error {
	d.session(c.raw).conn.Abort(errDropped)
	return nil
}

func makeErrors(_ *testServer, c *client) error { return c.sendAll(strings.Repeat(noCommand, 20)) }

func shutdownAtOnce(d *testServer, _ *client) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = d.server.Shutdown(ctx) // reports that something was aborted
	return nil
}

// TestServicesAreReleased: a session acquires the services at EHLO, AUTH and RCPT, and
// releases them at the end of what it needs them for, however that ends. Every other test
// with a testServer checks at its end that nothing is held or was released twice.
func TestServicesAreReleased(t *testing.T) {
	t.Parallel()
	for name, test := range serviceCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newTestServer(t, defaultSettings())
			c := d.dial()
			if test.noLogin {
				if err := c.secure(); err != nil {
					t.Fatal(err)
				}
				c.must(t, helloSteps...)
			} else if err := c.login("alice secret"); err != nil {
				t.Fatal(err)
			}
			before := d.held.acquired.Load()
			if before == 0 || d.held.count.Load() != 0 {
				t.Fatalf("%d acquired, %d held before the test", before, d.held.count.Load())
			}
			c.must(t, test.steps...)
			if got := d.held.acquired.Load() - before; got != test.acquired {
				t.Errorf("acquired %d times, want %d", got, test.acquired)
			}
			if got := d.held.count.Load(); got != test.held {
				t.Errorf("%d are held, want %d", got, test.held)
			}
			if test.end == nil {
				test.end = hangUp
			}
			if err := test.end(d, c); err != nil {
				t.Error(err)
			}
			kit.Eventually(t, "all are released", func() bool { return d.held.count.Load() == 0 })
		})
	}
}

// TestServicesOfPanics: a panic in what the services do releases them, too.
func TestServicesOfPanics(t *testing.T) {
	t.Parallel()
	auth := []string{"EHLO client.example.org", "250", "AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235"}
	full := append(append(auth, mailSteps...), "DATA", "354", "\r\nx\r\n.", "250")
	for _, at := range []string{"Caps", "Mechanisms", "Start", "Next", "exchange.Close", "Begin", "Rcpt", "Send", "transaction.Close"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			d := newTestServer(t, defaultSettings())
			c := d.dial()
			if err := c.secure(); err != nil {
				t.Fatal(err)
			}
			d.panics.Store(&at)
			_ = c.converse(full...)
			kit.Eventually(t, "it has panicked", func() bool { return d.log.First("internal error") != "" })
			kit.Eventually(t, "all are released", func() bool { return d.held.count.Load() == 0 })
			if d.held.acquired.Load() < 2 {
				t.Error("nothing was acquired after STARTTLS")
			}
		})
	}
}

// TestReloadWhileServicesAreHeld: an exchange and a transaction keep the services that
// they began with, and what comes next has the new ones, on the same connection.
func TestReloadWhileServicesAreHeld(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	inMail, inAuth := d.join(), d.dial()
	if err := inAuth.secure(); err != nil {
		t.Fatal(err)
	}
	inAuth.must(t, "EHLO client.example.org", "250", "AUTH PLAIN", "334")
	inMail.must(t, mailSteps...)
	d.services.Store(&Services{Auth: auth.Local{Passwords: noUsers{}}, Hop: closedHop{d.router}})
	inAuth.must(t, "AGFsaWNlAHNlY3JldA==", "235") // as before
	inMail.must(t, "DATA", "354", "\r\nx\r\n.", "250")
	inMail.must(t, "MAIL FROM:<alice@example.org>", "250", "RCPT TO:<bob@example.org>", "451")
	removed := d.dial()
	if err := removed.secure(); err != nil {
		t.Fatal(err)
	}
	removed.must(t, "EHLO client.example.org", "250", "AUTH PLAIN AGFsaWNlAHNlY3JldA==", "535")
}

// noUsers is a store from which all users have been removed.
type noUsers struct{}

func (noUsers) VerifyPassword(context.Context, *auth.Peer, string, string) (auth.Identity, error) {
	return auth.Identity{}, &auth.Failure{Kind: auth.NoSuchUser, Store: "none"}
}

type closedHop struct{ relay.NextHop }

func (closedHop) Begin(context.Context, *relay.Envelope) (relay.Transaction, error) {
	return nil, context.Canceled
}

// faults wraps services so that the call that panics names panics.
func (d *testServer) faults(s Services) Services {
	return Services{Auth: faultyProvider{s.Auth, d}, Hop: faultyHop{s.Hop, d}}
}

// at panics if call is the one that panics.
func (d *testServer) at(call string) {
	if want := d.panics.Load(); want != nil && *want == call {
		panic(call)
	}
}

type faultyProvider struct {
	auth.Provider
	d *testServer
}

func (p faultyProvider) Mechanisms(peer *auth.Peer) []string {
	p.d.at("Mechanisms")
	return p.Provider.Mechanisms(peer)
}

func (p faultyProvider) Start(ctx context.Context, peer *auth.Peer, mech string) (auth.Exchange, error) {
	p.d.at("Start")
	x, err := p.Provider.Start(ctx, peer, mech)
	return faultyExchange{x, p.d}, err
}

type faultyExchange struct {
	auth.Exchange
	d *testServer
}

// Unfinished makes the method of the exchange visible, which is optional.
func (x faultyExchange) Unfinished() *string {
	if u, ok := x.Exchange.(interface{ Unfinished() *string }); ok {
		return u.Unfinished()
	}
	return nil
}

func (x faultyExchange) Next(ctx context.Context, response []byte) ([]byte, bool, error) {
	x.d.at("Next")
	return x.Exchange.Next(ctx, response)
}

func (x faultyExchange) Close() error {
	x.d.at("exchange.Close")
	return x.Exchange.Close()
}

type faultyHop struct {
	relay.NextHop
	d *testServer
}

func (h faultyHop) Caps() relay.Caps {
	h.d.at("Caps")
	return h.NextHop.Caps()
}

func (h faultyHop) Begin(ctx context.Context, e *relay.Envelope) (relay.Transaction, error) {
	h.d.at("Begin")
	t, err := h.NextHop.Begin(ctx, e)
	return faultyTransaction{t, h.d}, err
}

type faultyTransaction struct {
	relay.Transaction
	d *testServer
}

func (t faultyTransaction) Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error {
	t.d.at("Rcpt")
	return t.Transaction.Rcpt(ctx, to, opts)
}

func (t faultyTransaction) Send(ctx context.Context, m *message.Message) (relay.Receipt, error) {
	t.d.at("Send")
	return t.Transaction.Send(ctx, m)
}

func (t faultyTransaction) Close() error {
	defer func() { _ = t.Transaction.Close() }()
	t.d.at("transaction.Close")
	return nil
}
