package dedup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
	"postern/test/kit"
)

// A printed is what the key of a message depends on.
type printed struct {
	envelope   relay.Envelope
	recipients []smtp.RcptOptions // OriginalRecipient before "|" is the address
	content    string
}

func (p printed) key() key {
	var recipients []string
	for _, r := range p.recipients {
		address, original, _ := strings.Cut(r.OriginalRecipient, "|")
		r.OriginalRecipient = original
		recipients = append(recipients, recipientField(address, &r))
	}
	p.envelope.Digest = sha256.Sum256([]byte(p.content))
	return keyOf(&p.envelope, recipients)
}

func rcpt(address string, notify ...smtp.DSNNotify) smtp.RcptOptions {
	return smtp.RcptOptions{OriginalRecipient: address + "|", Notify: notify}
}

// usual is the message that others are compared with.
func usual() printed {
	return printed{
		envelope: relay.Envelope{Session: "s1", Login: "alice", Sender: "alice@example.org", Options: smtp.MailOptions{Size: 100}},
		recipients: []smtp.RcptOptions{
			rcpt("bob@example.net", smtp.DSNNotifyFailure, smtp.DSNNotifySuccess), rcpt("carol@example.net"),
		},
		content: "Subject: x\r\n\r\nHello.\r\n",
	}
}

// TestSameKey: a message that a client sends again has the same key.
func TestSameKey(t *testing.T) {
	want := usual().key()
	for name, change := range map[string]func(*printed){
		"session":             func(p *printed) { p.envelope.Session = "s2" },
		"address of the user": func(p *printed) { p.envelope.Remote = netip.MustParseAddrPort("192.0.2.1:4000") },
		"order of recipients": func(p *printed) { p.recipients[0], p.recipients[1] = p.recipients[1], p.recipients[0] },
		"order of NOTIFY": func(p *printed) {
			p.recipients[0] = rcpt("bob@example.net", smtp.DSNNotifySuccess, smtp.DSNNotifyFailure)
		},
		"a recipient twice": func(p *printed) { p.recipients = append(p.recipients, rcpt("carol@example.net")) },
	} {
		p := usual()
		change(&p)
		if p.key() != want {
			t.Errorf("with another %s it is another message", name)
		}
	}
}

// TestOtherKeys: a message that differs in anything else is another one.
func TestOtherKeys(t *testing.T) {
	seen := map[key]string{usual().key(): "the usual one"}
	for name, change := range map[string]func(*printed){
		"user":                  func(p *printed) { p.envelope.Login = "bob" },
		"users of a listener":   func(p *printed) { p.envelope.Users = "printers" },
		"no user":               func(p *printed) { p.envelope.Login = "" },
		"no user, elsewhere":    func(p *printed) { p.envelope.Login, p.envelope.Remote = "", netip.MustParseAddrPort("192.0.2.1:4000") },
		"sender":                func(p *printed) { p.envelope.Sender = "alice@example.com" },
		"null sender":           func(p *printed) { p.envelope.Sender = "" },
		"BODY":                  func(p *printed) { p.envelope.Options.Body = smtp.Body8BitMIME },
		"SIZE":                  func(p *printed) { p.envelope.Options.Size = 101 },
		"SMTPUTF8":              func(p *printed) { p.envelope.Options.UTF8 = true },
		"RET":                   func(p *printed) { p.envelope.Options.Return = smtp.DSNReturnFull },
		"ENVID":                 func(p *printed) { p.envelope.Options.EnvelopeID = "e1" },
		"fewer recipients":      func(p *printed) { p.recipients = p.recipients[:1] },
		"more recipients":       func(p *printed) { p.recipients = append(p.recipients, rcpt("dave@example.net")) },
		"other recipients":      func(p *printed) { p.recipients[1] = rcpt("dave@example.net") },
		"two recipients in one": func(p *printed) { p.recipients[1] = rcpt("carol@example.net,dave@example.net") },
		"NOTIFY":                func(p *printed) { p.recipients[1] = rcpt("carol@example.net", smtp.DSNNotifyNever) },
		"NOTIFY of another": func(p *printed) {
			p.recipients[0], p.recipients[1] = rcpt("bob@example.net"), rcpt("carol@example.net", p.recipients[0].Notify...)
		},
		"ORCPT":                         func(p *printed) { p.recipients[1].OriginalRecipient = "carol@example.net|carol@example.com" },
		"ORCPT of another type":         func(p *printed) { p.recipients[1].OriginalRecipientType = smtp.DSNAddressTypeUTF8 },
		"content":                       func(p *printed) { p.content += "\r\n" },
		"an octet moved between fields": func(p *printed) { p.envelope.Login, p.envelope.Sender = "alicea", "lice@example.org" },
	} {
		p := usual()
		change(&p)
		if other, twice := seen[p.key()]; twice {
			t.Errorf("with another %s it is the same message as %s", name, other)
		}
		seen[p.key()] = "another " + name
	}
}

// A stubHop replies to each message with send.
type stubHop struct {
	relay.NextHop
	send func() (relay.Receipt, error)
	sent int
}

func (h *stubHop) Begin(context.Context, *relay.Envelope) (relay.Transaction, error) {
	return stubTransaction{hop: h}, nil
}

type stubTransaction struct {
	relay.Transaction
	hop *stubHop
}

func (stubTransaction) Rcpt(context.Context, string, *smtp.RcptOptions) error { return nil }

func (t stubTransaction) Send(context.Context, *message.Message) (relay.Receipt, error) {
	t.hop.sent++
	return t.hop.send()
}

func accept() (relay.Receipt, error) {
	return relay.Receipt{Hop: "smtp://localhost:25", Text: "2.0.0 Ok: queued as 4ZxY"}, nil
}

// submit sends the message of that content in a session.
func submit(ctx context.Context, hop relay.NextHop, session, content string) (relay.Receipt, error) {
	e := &relay.Envelope{Session: session, Message: session + ".1", Login: "alice", Sender: "alice@example.org"}
	t, err := hop.Begin(ctx, e)
	if err == nil {
		err = t.Rcpt(ctx, "bob@example.net", nil)
	}
	if err != nil {
		return relay.Receipt{}, err
	}
	if content != "" {
		e.Digest = sha256.Sum256([]byte(content))
	}
	return t.Send(ctx, nil)
}

// TestSend: a message whose 250 was lost is not sent again, and one without a digest always
// is.
func TestSend(t *testing.T) {
	stub := &stubHop{send: accept}
	hop := NewReceipts(noEvents{}).Before(stub)
	for _, step := range []struct {
		session, content, first string
		sent                    int
		seen                    bool
	}{
		{"s1", "one", "", 1, false},
		{"s2", "one", "s1.1", 1, false},
		{"s3", "two", "", 2, true},
		{"s4", "one", "s1.1", 2, true},
		{"s5", "one", "", 3, true},
		{"s6", "two", "", 4, true},
	} {
		receipt, err := submit(t.Context(), hop, step.session, step.content)
		if err != nil {
			t.Fatal(err)
		}
		if receipt.First != step.first || receipt.QueueID() != "4ZxY" || stub.sent != step.sent {
			t.Errorf("%s: got %+v, %d sent", step.session, receipt, stub.sent)
		}
		receipt.Seen(step.seen)
	}
	for range 2 {
		if receipt, err := submit(t.Context(), hop, "s7", ""); err != nil || receipt.Seen != nil {
			t.Errorf("without a digest: got %+v, %v", receipt, err)
		}
	}
	if stub.sent != 6 {
		t.Errorf("%d messages were sent", stub.sent)
	}
}

// TestSendFails: a message that the hop has not accepted is sent when the client repeats it.
func TestSendFails(t *testing.T) {
	refusal := &smtp.SMTPError{Code: 550, Message: "no"}
	stub := &stubHop{send: func() (relay.Receipt, error) { return relay.Receipt{}, refusal }}
	hop := NewReceipts(noEvents{}).Before(stub)
	if _, err := submit(t.Context(), hop, "s1", "x"); !errors.Is(err, refusal) {
		t.Errorf("got %v", err)
	}
	stub.send = func() (relay.Receipt, error) { panic("burst") }
	func() {
		defer func() { _ = recover() }()
		_, _ = submit(t.Context(), hop, "s2", "x")
	}()
	stub.send = accept
	if receipt, err := submit(t.Context(), hop, "s3", "x"); err != nil || receipt.First != "" || stub.sent != 3 {
		t.Errorf("got %+v, %v, %d sent", receipt, err, stub.sent)
	}
}

// TestSendIsBusy: the error is temporary if it does not become known in time whether the
// client has seen the 250.
func TestSendIsBusy(t *testing.T) {
	hop := NewReceipts(noEvents{}).Before(&stubHop{send: accept})
	if _, err := submit(t.Context(), hop, "s1", "x"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := submit(ctx, hop, "s2", "x")
	var refusal *smtp.SMTPError
	if !errors.As(err, &refusal) || refusal.Code != 451 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// A lateHop is silent at the end of each message. Await returns what outcomes has.
type lateHop struct {
	stubHop
	outcomes  chan error
	abandoned int
}

func newLateHop() *lateHop {
	h := &lateHop{outcomes: make(chan error)}
	h.send = func() (relay.Receipt, error) {
		return relay.Receipt{}, fmt.Errorf("wrapped: %w", &relay.OverdueError{
			Err:     errors.New("silence"),
			Abandon: func() { h.abandoned++ },
			Await: func(ctx context.Context) (relay.Receipt, error) {
				select {
				case err := <-h.outcomes:
					return relay.Receipt{Text: "Ok: queued as LATE"}, err
				case <-ctx.Done():
					return relay.Receipt{}, ctx.Err()
				}
			},
		})
	}
	return h
}

// TestLateReplies: a late 250 is the receipt of the next submission, and after a late
// refusal the message is sent again.
func TestLateReplies(t *testing.T) {
	late := newLateHop()
	receipts := NewReceipts(noEvents{})
	hop := receipts.Before(late)
	for _, refused := range []error{nil, errors.New("550 no")} {
		content := fmt.Sprint("refused: ", refused)
		before := late.sent
		_, err := submit(t.Context(), hop, "s1", content)
		var overdue *relay.OverdueError
		if err == nil || errors.As(err, &overdue) {
			t.Fatalf("got %v", err)
		}
		go func() { late.outcomes <- refused }()
		if refused == nil {
			receipt, err := submit(t.Context(), hop, "s1", content) // waits for the late reply
			if err != nil || receipt.First != "s1.1" || receipt.QueueID() != "LATE" || late.sent != before+1 {
				t.Errorf("got %+v, %v, %d sent", receipt, err, late.sent-before)
			}
			continue
		}
		if _, err := submit(t.Context(), hop, "s1", content); err == nil || late.sent != before+2 {
			t.Errorf("got %v, %d sent", err, late.sent-before)
		}
	}
	receipts.Close()
	if late.abandoned != 0 {
		t.Errorf("%d were abandoned", late.abandoned)
	}
}

// outcomes counts the events.
type outcomes struct{ accepted, none chan error }

func (o outcomes) AcceptedLate(*relay.Envelope, int, relay.Receipt, time.Duration) { o.accepted <- nil }
func (o outcomes) NoLateAnswer(_ *relay.Envelope, err error)                       { o.none <- err }

// TestLateRepliesAreBounded: only so many late replies are awaited at the same time. For
// more of them, and after Close, the caller has to abandon the connection. Close ends all.
func TestLateRepliesAreBounded(t *testing.T) {
	late := newLateHop()
	events := outcomes{make(chan error, maxAwaited+1), make(chan error, maxAwaited+1)}
	receipts := NewReceipts(events)
	hop := receipts.Before(late)
	n := 0
	awaited := func() bool {
		n++
		_, err := submit(t.Context(), hop, "s1", fmt.Sprint(n))
		if err == nil {
			t.Error("sent")
		}
		before := late.abandoned
		relay.Abandon(err)
		return late.abandoned == before
	}
	for n := range maxAwaited {
		if !awaited() {
			t.Fatalf("only %d are awaited", n)
		}
	}
	if awaited() {
		t.Error("one more is awaited")
	}
	late.outcomes <- nil
	if err := <-events.accepted; err != nil {
		t.Error(err)
	}
	kit.Eventually(t, "there is room for one more", awaited)
	receipts.Close()
	for range maxAwaited {
		if err := <-events.none; !errors.Is(err, context.Canceled) {
			t.Errorf("the outcome is %v", err)
		}
	}
	if awaited() {
		t.Error("one is awaited after Close")
	}
	receipts.Close() // a second time
}
