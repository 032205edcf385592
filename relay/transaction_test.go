package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// refuse rejects recipients with a certain prefix as Postfix rejects unknown users.
func refuse(c relaytest.Command) relaytest.Answer {
	if c.Verb == "RCPT" && strings.HasPrefix(c.Address, "nobody") {
		return relaytest.Say("550 5.1.1 <" + c.Address + ">: Recipient address rejected: User unknown")
	}
	return relaytest.Usual
}

// on replaces the reply to one command.
func on(verb string, a relaytest.Answer) func(relaytest.Command) relaytest.Answer {
	return func(c relaytest.Command) relaytest.Answer {
		if c.Verb == verb {
			return a
		}
		return relaytest.Usual
	}
}

func TestDeliver(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	receipt := deliver(t, r, relaytest.Stage(t, testMail))
	if receipt.Hop != hop.URL() || receipt.Text != "2.0.0 Ok: queued as A000" || receipt.First != "" || receipt.Seen != nil {
		t.Errorf("receipt %+v", receipt)
	}
	got := hop.Delivered()
	if len(got) != 1 || string(got[0].Data) != testMail || got[0].From != "alice@example.org" || got[0].To[0].Address != "bob@example.com" {
		t.Errorf("delivered %+v", got)
	}
}

// A second message needs neither a new connection nor EHLO, RSET or NOOP.
func TestConnectionIsReused(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	m := relaytest.Stage(t, testMail)
	before := hop.Count("EHLO")
	for range 5 {
		deliver(t, r, m)
	}
	if hop.Count("EHLO") != before || hop.Count("RSET") != 0 || hop.Count("NOOP") != 0 {
		t.Errorf("more than was needed:\n%s", strings.Join(hop.Commands(), "\n"))
	}
}

func TestHopRefuses(t *testing.T) {
	for verb, want := range map[string]string{
		"MAIL": "550 5.7.1 We do not like you", "RCPT": "550 5.7.1 We do not like you",
		"DATA": "550 5.7.1 We do not like you", ".": "550 5.7.1 We do not like you",
	} {
		t.Run(verb, func(t *testing.T) {
			hop := relaytest.New(t, relaytest.Options{})
			hop.Handle(on(verb, relaytest.Say("550-5.7.1 We do not", "550 5.7.1 like you")))
			r := newRouter(t, nil, hop)
			tx := begin(t, r)
			err := tx.Rcpt(t.Context(), "bob@example.com", nil)
			if err == nil {
				_, err = tx.Send(t.Context(), relaytest.Stage(t, testMail))
			}
			wantRefusal(t, err, want)
		})
	}
}

func TestOneOfThreeRefused(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	hop.Handle(refuse)
	tx := begin(t, newRouter(t, nil, hop))
	rcpt(t, tx, "bob@example.com")
	wantRefusal(t, tx.Rcpt(t.Context(), "nobody@example.com", nil), "550 5.1.1 <nobody@example.com>: Recipient address rejected")
	rcpt(t, tx, "carol@example.com")
	if _, err := tx.Send(t.Context(), relaytest.Stage(t, testMail)); err != nil {
		t.Fatal(err)
	}
	if got := hop.Delivered()[0].To; len(got) != 2 {
		t.Errorf("delivered to %v", got)
	}
}

// After many refusals a connection is replaced in the middle of the transaction, and the
// recipients accepted before are not lost.
func TestManyRefusalsInOneTransaction(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{Limits: relaytest.PostfixLimits()})
	hop.Handle(refuse)
	tx := begin(t, newRouter(t, nil, hop))
	rcpt(t, tx, "bob@example.com")
	for i := range 30 {
		wantRefusal(t, tx.Rcpt(t.Context(), fmt.Sprintf("nobody%d@example.com", i), nil), "550 5.1.1")
	}
	rcpt(t, tx, "carol@example.com")
	if _, err := tx.Send(t.Context(), relaytest.Stage(t, testMail)); err != nil {
		t.Fatal(err)
	}
	if got := hop.Delivered(); len(got) != 1 || len(got[0].To) != 2 {
		t.Errorf("delivered %+v", got)
	}
}

// Bytes that are not a reply, or not one to this command, are never a success, and never
// shown to the client as the hop's reply.
func TestUnexpectedReplies(t *testing.T) {
	t.Parallel()
	flood := strings.Repeat("250-more\r\n", 100) + "250 end\r\n"
	answers := map[string]relaytest.Answer{
		"garbage":         relaytest.Raw("hello there\r\n"),
		"no code":         relaytest.Raw("ok\r\n"),
		"bare LF":         relaytest.Raw("250 ok\n"),
		"continuations":   relaytest.Raw(flood),
		"endless line":    relaytest.Raw("250 " + strings.Repeat("x", 10000) + "\r\n"),
		"mixed codes":     relaytest.Raw("250-ok\r\n550 no\r\n"),
		"1yz":             relaytest.Raw("150 working\r\n"),
		"6yz":             relaytest.Raw("650 what\r\n"),
		"too soon":        relaytest.Raw("354 go ahead\r\n"),
		"wrong success":   relaytest.Raw("220 hello\r\n"),
		"half a line":     relaytest.Raw("250 o").AndHangUp(),
		"nothing":         relaytest.HangUp(),
		"wants a login":   relaytest.Say("530 5.7.0 Authentication required"),
		"going":           relaytest.Say("421 4.3.2 Service shutting down").AndHangUp(),
		"binary":          relaytest.Raw("\x00\xff\xfe\x01\r\n"),
		"negative digits": relaytest.Raw("-50 ok\r\n"),
	}
	for name, answer := range answers {
		for _, verb := range []string{"MAIL", "RCPT", "DATA"} {
			if verb == "DATA" && name == "too soon" {
				continue // 354 is the expected reply
			}
			t.Run(name+" to "+verb, func(t *testing.T) {
				t.Parallel()
				hop := relaytest.New(t, relaytest.Options{})
				hop.Handle(on(verb, answer))
				tx := begin(t, newRouter(t, func(c *Config) { c.Patience = 0 }, hop))
				err := tx.Rcpt(t.Context(), "bob@example.com", nil)
				if err == nil {
					_, err = tx.Send(t.Context(), relaytest.Stage(t, testMail))
				}
				wantTemporary(t, err)
				if len(hop.Messages()) > 0 {
					t.Error("a message was sent")
				}
			})
		}
	}
}

// After the final dot there is no second attempt, for any reaction of the hop.
func TestEndOfDataIsSentOnce(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]relaytest.Answer{
		"killed":        relaytest.HangUp(),
		"garbage":       relaytest.Raw("hello\r\n"),
		"silence":       relaytest.Stall(),
		"wrong success": relaytest.Say("251 2.1.5 User not local; will forward"),
		"354":           relaytest.Say("354 go ahead"),
		"half a line":   relaytest.Raw("250 2.0.0 O").AndHangUp(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hop, other := relaytest.New(t, relaytest.Options{}), relaytest.New(t, relaytest.Options{})
			r := newRouter(t, func(c *Config) { c.DataTimeout = soon }, hop, other)
			deliver(t, r, relaytest.Stage(t, testMail)) // so that the connection is a reused one
			hop.Handle(on(".", answer))
			tx := begin(t, r)
			rcpt(t, tx, "bob@example.com")
			_, err := tx.Send(t.Context(), relaytest.Stage(t, testMail))
			wantTemporary(t, err)
			if !errors.Is(err, errUncertain) {
				t.Errorf("the error does not have the reason: %v", err)
			}
			if n := len(hop.Messages()) + len(other.Messages()); n != 2 {
				t.Errorf("%d messages arrived, want this one once", n-1)
			}
		})
	}
}

// 421 to the end of data is a refusal, but to the client it must not mean that postern
// closes the connection.
func Test421AtEndOfData(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	hop.Handle(on(".", relaytest.Say("421 4.3.2 Shutting down").AndHangUp()))
	tx := begin(t, newRouter(t, nil, hop))
	rcpt(t, tx, "bob@example.com")
	_, err := tx.Send(t.Context(), relaytest.Stage(t, testMail))
	wantRefusal(t, err, "451 4.3.2 Shutting down")
	if n := len(hop.Messages()); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

// If a hop closes a connection before the whole message has been sent, the message is sent on
// another connection.
func TestHopDisconnects(t *testing.T) {
	large := testMail + strings.Repeat("0123456789\r\n", 100_000) // a Unix socket does not hold it
	for verb, text := range map[string]string{"MAIL": testMail, "RCPT": testMail, "DATA": testMail, "BODY": large} {
		for name, answer := range map[string]relaytest.Answer{
			"silently": relaytest.HangUp(),
			"with 421": relaytest.Say("421 4.4.2 Timeout").AndHangUp(),
		} {
			t.Run(verb+" "+name, func(t *testing.T) {
				t.Parallel()
				hop := relaytest.New(t, relaytest.Options{Unix: true})
				r := newRouter(t, nil, hop)
				m := relaytest.Stage(t, text)
				deliver(t, r, m)
				hop.Handle(func(c relaytest.Command) relaytest.Answer {
					if c.Conn == 1 && c.Verb == verb {
						return answer
					}
					return relaytest.Usual
				})
				deliver(t, r, m)
				if n := len(hop.Messages()); n != 2 {
					t.Errorf("%d messages, want 2", n)
				}
			})
		}
	}
}

// The end of a short message is sent with its body: a hop that closes the connection
// after 354 may have it.
func TestHopDisconnectsAfter354(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Conn == 1 && c.Verb == "BODY" {
			return relaytest.HangUp()
		}
		return relaytest.Usual
	})
	tx := begin(t, r)
	rcpt(t, tx, "bob@example.com")
	_, err := tx.Send(t.Context(), relaytest.Stage(t, testMail))
	if n := len(hop.Messages()); n == 0 && !errors.Is(err, errUncertain) || n > 0 && err != nil {
		t.Errorf("%d arrived, error %v", n, err)
	}
}

// The connections that were idle when the hop was restarted are all stale.
func TestIdleConnectionsGoneStale(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, func(c *Config) { c.Patience = 0 }, hop)
	var open []Transaction
	for range 5 {
		tx := begin(t, r)
		rcpt(t, tx, "bob@example.com")
		open = append(open, tx)
	}
	for _, tx := range open {
		tx.Close()
	}
	kit.Eventually(t, "all connections idle", func() bool { return hop.Count("RSET") == 5 })
	hop.Stop()
	hop.Start()
	deliver(t, r, relaytest.Stage(t, testMail))
}

func TestHopRestartIsNotVisible(t *testing.T) {
	t.Parallel()
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	tx := begin(t, r)
	rcpt(t, tx, "bob@example.com")
	hop.Stop()
	back := time.AfterFunc(time.Second, hop.Start)
	defer back.Stop()
	rcpt(t, tx, "carol@example.com")
	if _, err := tx.Send(t.Context(), relaytest.Stage(t, testMail)); err != nil {
		t.Fatal(err)
	}
	if got := hop.Delivered(); len(got) != 1 || len(got[0].To) != 2 {
		t.Errorf("delivered %+v", got)
	}
}

// Patience is one budget for the whole transaction.
func TestPatienceEnds(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, func(c *Config) { c.Patience = 500 * time.Millisecond }, hop)
	hop.Stop()
	defer hop.Start()
	tx := begin(t, r)
	start := time.Now()
	for range 200 {
		wantTemporary(t, tx.Rcpt(t.Context(), "bob@example.com", nil))
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("200 recipients took %v of a patience of 500ms", took)
	}
}

func TestCallerGivesUp(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	hop.Handle(on("RCPT", relaytest.Stall()))
	r := newRouter(t, nil, hop)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	wantTemporary(t, begin(t, r).Rcpt(ctx, "bob@example.com", nil))
	if took := time.Since(start); took > 20*time.Second { // relay.command_timeout is 25 seconds
		t.Errorf("returned after %v", took)
	}
	hop.Handle(nil)
	deliver(t, r, relaytest.Stage(t, testMail))
}

func TestNothingToSend(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	tx := begin(t, newRouter(t, nil, hop))
	_, err := tx.Send(t.Context(), relaytest.Stage(t, testMail))
	wantRefusal(t, err, "554 5.5.1 No valid recipients")
	if err := tx.Rcpt(t.Context(), "bob@example.com", nil); !errors.Is(err, errOver) {
		t.Errorf("after Send: %v", err)
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	tx := begin(t, newRouter(t, nil, hop))
	rcpt(t, tx, "bob@example.com")
	for range 3 {
		if err := tx.Close(); err != nil {
			t.Error(err)
		}
	}
	kit.Eventually(t, "the transaction is cancelled at the hop", func() bool { return hop.Count("RSET") == 1 })
}

// Only known parameters are sent; ENVID and ORCPT arrive as the client sent them.
func TestParameters(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	nobody := ""
	tx := beginWith(t, r, &Envelope{Sender: "alice@example.org", Options: smtp.MailOptions{
		Size: 1000, Auth: &nobody, Return: smtp.DSNReturnHeaders, EnvelopeID: "a+20b+2bc=d", RequireTLS: false,
	}})
	err := tx.Rcpt(t.Context(), "bob@example.com", &smtp.RcptOptions{
		Notify:                []smtp.DSNNotify{smtp.DSNNotifyFailure, smtp.DSNNotifyDelayed},
		OriginalRecipientType: "rfc822", OriginalRecipient: "b+C3+b6=b@example.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Send(t.Context(), relaytest.Stage(t, testMail)); err != nil {
		t.Fatal(err)
	}
	got := hop.Delivered()[0]
	if want := "BODY=8BITMIME SIZE=1000 RET=HDRS ENVID=a+20b+2bc=d"; got.Params != want {
		t.Errorf("MAIL with %q, want %q", got.Params, want)
	}
	if want := "NOTIFY=FAILURE,DELAY ORCPT=rfc822;b+C3+b6=b@example.com"; got.To[0].Params != want {
		t.Errorf("RCPT with %q, want %q", got.To[0].Params, want)
	}
}

func TestDSNDroppedAndLogged(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{Extensions: []string{"8BITMIME"}})
	var log kit.LogBuffer
	r := newLoggedRouter(t, NewLog(log.Logger()), nil, hop)
	tx := beginWith(t, r, &Envelope{Session: "s7", Sender: "alice@example.org", Options: smtp.MailOptions{Return: smtp.DSNReturnFull}})
	for _, to := range []string{"bob@example.com", "carol@example.com"} {
		if err := tx.Rcpt(t.Context(), to, &smtp.RcptOptions{Notify: []smtp.DSNNotify{smtp.DSNNotifyNever}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tx.Send(t.Context(), relaytest.Stage(t, testMail)); err != nil {
		t.Fatal(err)
	}
	if n := log.Count(`msg="DSN parameters dropped" session=s7`); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, log.String())
	}
	if p := hop.Delivered()[0].Params; p != "BODY=8BITMIME" {
		t.Errorf("MAIL with %q", p)
	}
}

func TestWhatTheHopCannotTake(t *testing.T) {
	const eightBit = "Subject: test\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
	t.Run("SMTPUTF8", func(t *testing.T) {
		hop := relaytest.New(t, relaytest.Options{Extensions: []string{"8BITMIME"}})
		tx := beginWith(t, newRouter(t, nil, hop), &Envelope{Sender: "jürgen@example.org", Options: smtp.MailOptions{UTF8: true}})
		wantRefusal(t, tx.Rcpt(t.Context(), "bob@example.com", nil), "550 5.6.7")
	})
	t.Run("8BITMIME", func(t *testing.T) {
		hop := relaytest.New(t, relaytest.Options{Extensions: []string{"SIZE"}})
		r := newRouter(t, nil, hop)
		tx := begin(t, r)
		rcpt(t, tx, "bob@example.com")
		_, err := tx.Send(t.Context(), relaytest.Stage(t, eightBit))
		wantRefusal(t, err, "554 5.6.3")
		deliver(t, r, relaytest.Stage(t, testMail)) // 7-bit mail is accepted
	})
	t.Run("neither lacks", func(t *testing.T) {
		hop := relaytest.New(t, relaytest.Options{})
		tx := beginWith(t, newRouter(t, nil, hop), &Envelope{Sender: "jürgen@example.org", Options: smtp.MailOptions{UTF8: true}})
		rcpt(t, tx, "søren@example.com")
		if _, err := tx.Send(t.Context(), relaytest.Stage(t, eightBit)); err != nil {
			t.Fatal(err)
		}
		if got := hop.Delivered()[0]; string(got.Data) != eightBit || !strings.Contains(got.Params, "SMTPUTF8") {
			t.Errorf("delivered %+v", got)
		}
	})
}

// A local part may be as long as fits into the address (VERP, hashes).
func TestLongAddress(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	tx := begin(t, newRouter(t, nil, hop))
	long := strings.Repeat("x", MaxAddress-len("@example.com")) + "@example.com"
	rcpt(t, tx, long)
	wantRefusal(t, tx.Rcpt(t.Context(), "x"+long, nil), "501 5.1.3 Address is too long")
	if _, err := tx.Send(t.Context(), relaytest.Stage(t, testMail)); err != nil {
		t.Fatal(err)
	}
	if got := hop.Delivered()[0].To; len(got) != 1 || got[0].Address != long {
		t.Errorf("delivered to %.80q", got)
	}
}
