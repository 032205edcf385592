package spool

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// A parsedReport is a report as a mail client parses it.
type parsedReport struct {
	header netmail.Header
	types  []string
	parts  []string
}

func parseReport(t *testing.T, m relaytest.Message) parsedReport {
	t.Helper()
	msg, err := netmail.ReadMessage(bytes.NewReader(m.Data))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" {
		t.Fatalf("%s: %v", kind, err)
	}
	r := parsedReport{header: msg.Header, types: []string{params["report-type"]}}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for {
		p, err := parts.NextPart()
		if err == io.EOF {
			return r
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type"))
		r.types, r.parts = append(r.types, kind), append(r.parts, string(text))
	}
}

func wantIn(t *testing.T, text string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
}

// refuseBob refuses one recipient, in more than one line.
func refuseBob(c relaytest.Command) relaytest.Answer {
	if c.Verb == "RCPT" && c.Address == "bob@example.com" {
		return relaytest.Say("550-5.1.1 No such user:", "550 5.1.1 b\xc3\xb6b")
	}
	return relaytest.Usual
}

// A recipient that the hop refuses later is reported; the others get the mail.
func TestReport(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.hop.Handle(refuseBob)
	m := toBob("x")
	m.to = append(m.to, "carol@example.com")
	m.options.EnvelopeID = "env+20+20+2B1"
	m.rcpt = smtp.RcptOptions{OriginalRecipientType: "RFC822", OriginalRecipient: "robert+2Bx@example.com"}
	id := r.spooled(m)
	r.deliver()
	r.empty()
	got := r.hop.Delivered()
	if len(got) != 2 || len(got[0].To) != 1 || got[0].To[0].Address != "carol@example.com" {
		t.Fatalf("delivered: %+v", got)
	}
	if got[1].From != "" || got[1].To[0].Address != m.from {
		t.Errorf("the report went from %q to %+v", got[1].From, got[1].To)
	}
	p := parseReport(t, got[1])
	if s := strings.Join(p.types, " "); s != "delivery-status text/plain message/delivery-status text/rfc822-headers" {
		t.Errorf("parts: %s", s)
	}
	if p.header.Get("Auto-Submitted") != "auto-replied" || p.header.Get("Message-Id") == "" || p.header.Get("To") != "<alice@example.org>" {
		t.Errorf("header: %v", p.header)
	}
	wantIn(t, p.parts[0], "<bob@example.com>", "No such user: böb")
	wantIn(t, p.parts[1],
		"Original-Envelope-Id: env  +1\r\n", "Reporting-MTA: dns; mail.example.org\r\n", "X-Postern-Queue-ID: "+id+"\r\n", "Arrival-Date: ",
		"\r\n\r\nOriginal-Recipient: rfc822; robert+x@example.com\r\nFinal-Recipient: rfc822; bob@example.com\r\nAction: failed\r\nStatus: 5.1.1\r\n",
		"Diagnostic-Code: smtp; 550 5.1.1 No such user: b?b\r\n")
	wantIn(t, p.parts[2], "Subject: x\r\n")
	if strings.Contains(p.parts[2], "hello") {
		t.Error("the body was returned without RET=FULL")
	}
}

// Reports and messages are sent to the hops of their functions.
func TestReportsHaveAnotherHop(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.hop.Handle(refuseBob)
	reports := relaytest.New(t, relaytest.Options{})
	r.spool.origin = "example.org"
	m := toBob("x")
	m.to = append(m.to, "carol@example.com")
	r.spooled(m)
	r.spool.Deliver(always(r.route), always(newRoute(t, reports.URL())))
	r.empty()
	if got := r.hop.Delivered(); len(got) != 1 || got[0].From == "" {
		t.Errorf("messages: %+v", got)
	}
	got := reports.Delivered()
	if len(got) != 1 || got[0].From != "" {
		t.Fatalf("reports: %+v", got)
	}
	p := parseReport(t, got[0])
	if from := p.header.Get("From"); from != "Mail Delivery System <MAILER-DAEMON@example.org>" {
		t.Errorf("the report is from %s", from)
	}
	wantIn(t, p.parts[1], "Reporting-MTA: dns; mail.example.org\r\n")
}

// RET selects which part of the message is returned, and NOTIFY whether there is a report.
func TestRetAndNotify(t *testing.T) {
	for name, c := range map[string]struct {
		from   string
		ret    smtp.DSNReturn
		notify []smtp.DSNNotify
		third  string // content type of the third part; empty for no report
	}{
		"full":            {"alice@example.org", smtp.DSNReturnFull, nil, "message/rfc822"},
		"headers":         {"alice@example.org", smtp.DSNReturnHeaders, nil, "text/rfc822-headers"},
		"failure, delay":  {"alice@example.org", "", []smtp.DSNNotify{smtp.DSNNotifyDelayed, smtp.DSNNotifyFailure}, "text/rfc822-headers"},
		"never":           {"alice@example.org", smtp.DSNReturnFull, []smtp.DSNNotify{smtp.DSNNotifyNever}, ""},
		"success only":    {"alice@example.org", "", []smtp.DSNNotify{smtp.DSNNotifySuccess}, ""},
		"the null sender": {"", smtp.DSNReturnFull, []smtp.DSNNotify{smtp.DSNNotifyFailure}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir(), nil)
			r.hop.Handle(refuseBob)
			m := toBob("x")
			m.from, m.options.Return, m.rcpt.Notify = c.from, c.ret, c.notify
			r.spooled(m)
			r.deliver()
			r.empty()
			got := r.hop.Delivered()
			if (len(got) == 1) != (c.third != "") {
				t.Fatalf("delivered: %+v", got)
			}
			if c.third == "" {
				return
			}
			p := parseReport(t, got[0])
			if p.types[3] != c.third {
				t.Errorf("third part: %s", p.types[3])
			}
			if full := strings.Contains(p.parts[2], "\r\n\r\n.hello"); full != (c.ret == smtp.DSNReturnFull) {
				t.Errorf("third part:\n%s", p.parts[2])
			}
		})
	}
}

// RFC 6533: with SMTPUTF8 the report has addresses in UTF-8.
func TestReportInUTF8(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "RCPT" && c.Address == "böb@example.com" {
			return relaytest.Say("550 5.1.1 No")
		}
		return relaytest.Usual
	})
	m := toBob("x")
	m.from, m.to, m.options.UTF8 = "älice@example.org", []string{"böb@example.com"}, true
	r.spooled(m)
	r.deliver()
	r.empty()
	got := r.hop.Delivered()
	if len(got) != 1 || !strings.Contains(got[0].Params, "SMTPUTF8") {
		t.Fatalf("delivered: %+v", got)
	}
	p := parseReport(t, got[0])
	if s := strings.Join(p.types, " "); s != "global-delivery-status text/plain message/global-delivery-status message/global-headers" {
		t.Errorf("parts: %s", s)
	}
	wantIn(t, p.parts[1], "Final-Recipient: utf-8; böb@example.com")
}

// A refusal after the data applies to all recipients; but if there are several and it may
// be about one of them, they are asked again first.
func TestRefusalAfterData(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "." && len(r.hop.Messages()) < 2 {
			return relaytest.Say("554 5.6.0 Rejected")
		}
		return relaytest.Usual
	})
	m := toBob("x")
	m.to = append(m.to, "carol@example.com")
	r.spooled(m)
	r.deliver()
	r.empty()
	got := r.hop.Delivered()
	if len(got) != 1 || got[0].From != "" {
		t.Fatalf("delivered: %+v", got)
	}
	wantIn(t, parseReport(t, got[0]).parts[1], "rfc822; bob@example.com", "rfc822; carol@example.com", "Status: 5.6.0")
}

// After a temporary refusal, only the recipients that do not have the message are tried
// again.
func TestTemporaryRefusal(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.hop.Handle(refuseSome())
	r.spooled(crashTest("x"))
	r.deliver()
	r.empty()
	got := map[string]int{}
	for _, m := range r.hop.Delivered() {
		for _, to := range m.To {
			got[to.Address]++
		}
	}
	if len(got) != 3 || got["bob@example.com"] != 1 || got["later@example.com"] != 1 || got["alice@example.org"] != 1 {
		t.Errorf("got %v", got)
	}
}

// Without a reply to the final dot the message is sent again, even if it may arrive twice.
func TestUncertainIsTriedAgain(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Verb == "." && len(r.hop.Messages()) < 1 {
			return relaytest.HangUp()
		}
		return relaytest.Usual
	})
	r.spooled(toBob("x"))
	r.deliver()
	r.empty()
	if got := len(r.hop.Messages()); got != 2 {
		t.Errorf("sent %d times", got)
	}
}

// After its lifetime, and one attempt, a message is returned.
func TestLifetime(t *testing.T) {
	for name, down := range map[string]bool{"temporary refusal": false, "no reply": true} {
		t.Run(name, func(t *testing.T) {
			lifetime := time.Second
			if down {
				lifetime = 5 * time.Second // reports have the same lifetime until they can be sent
			}
			r := newRig(t, t.TempDir(), func(c *Config) { c.Lifetime = lifetime })
			r.hop.Handle(func(c relaytest.Command) relaytest.Answer {
				if c.Address == "bob@example.com" {
					return relaytest.Say("450 4.2.1 Later")
				}
				return relaytest.Usual
			})
			for _, subject := range []string{"a", "b", "c"} {
				r.spooled(toBob(subject))
			}
			if down {
				r.hop.Stop()
			}
			time.Sleep(lifetime + 100*time.Millisecond)
			r.deliver()
			if down {
				kit.Eventually(t, "reports are written", func() bool { return strings.Count(r.log.String(), "report spooled") == 3 })
				cfg := Defaults()
				r.spool.Configure(cfg, Sizes{Total: 1 << 30}) // so that the reports do not expire
				r.hop.Start()
			}
			r.empty()
			got := r.hop.Delivered()
			if len(got) != 3 {
				t.Fatalf("%d delivered\n%s", len(got), r.log.String())
			}
			status := parseReport(t, got[0]).parts[1]
			wantIn(t, status, "Action: failed", "Status: 4.4.7")
			if strings.Contains(status, "Diagnostic-Code: smtp; 450 4.2.1 Later") == down {
				t.Errorf("diagnostic:\n%s", status)
			}
		})
	}
}

// The last attempt, after the lifetime, can succeed.
func TestExpiredIsTried(t *testing.T) {
	r := newRig(t, t.TempDir(), func(c *Config) { c.Lifetime = time.Millisecond })
	r.spooled(toBob("overdue"))
	time.Sleep(2 * time.Millisecond)
	r.deliver()
	r.empty()
	if got := subjects(r.hop.Delivered()); len(got) != 1 || got[0] != "overdue" {
		t.Errorf("delivered %q", got)
	}
}

// A delay is reported once, if the sender has asked for it.
func TestDelay(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.spool.pace.delayWarning = time.Millisecond
	r.hop.Handle(func(c relaytest.Command) relaytest.Answer {
		if c.Address == "bob@example.com" {
			return relaytest.Say("450 4.2.1 Later")
		}
		return relaytest.Usual
	})
	quiet, asked := toBob("quiet"), toBob("asked")
	asked.rcpt.Notify = []smtp.DSNNotify{smtp.DSNNotifyDelayed, smtp.DSNNotifyFailure}
	r.spooled(quiet)
	id := r.spooled(asked)
	r.deliver()
	kit.Eventually(t, "several attempts and a report", func() bool {
		return strings.Count(r.log.String(), "delivery deferred") > 6 && len(r.hop.Delivered()) > 0
	})
	got := r.hop.Delivered()
	if len(got) != 1 {
		t.Fatalf("%d reports", len(got))
	}
	p := parseReport(t, got[0])
	wantIn(t, p.parts[1], id, "Action: delayed", "Status: 4.2.1", "Will-Retry-Until: ")
	wantIn(t, p.header.Get("Subject"), "Delayed")
}

// Original-Recipient has the decoded address if the report can contain it, and never
// another line.
func TestOriginalRecipientInReport(t *testing.T) {
	for _, tt := range []struct {
		kind, original string
		ascii, utf8    string // without SMTPUTF8 and with it; empty: no field
	}{
		{"", "", "", ""},
		{"rfc822", "b+2Bbob@example.org", "rfc822; b+bob@example.org", "rfc822; b+bob@example.org"},
		{"RFC822", "+22a+20+20b+22@example.org", `rfc822; "a  b"@example.org`, `rfc822; "a  b"@example.org`},
		{"rfc822", "b+C3+b6b@example.org", "rfc822; b+C3+b6b@example.org", "rfc822; böb@example.org"},
		{"rfc822", "b+ffb@example.org", "rfc822; b+ffb@example.org", "rfc822; b+ffb@example.org"},
		{"rfc822", "b+C2+85b@example.org", "rfc822; b+C2+85b@example.org", "rfc822; b+C2+85b@example.org"}, // U+0085
		{"x400", "/C=fr/", "x400; /C=fr/", "x400; /C=fr/"},
		{"UTF-8", `b\x{F6}b\x{2B}@example.org`, `utf-8; b\x{F6}b\x{2B}@example.org`, "utf-8; böb+@example.org"},
		{"utf-8", "böb@example.org", `utf-8; b\x{F6}b@example.org`, "utf-8; böb@example.org"},
		{"utf-8", strings.Repeat("ö", 100), "", "utf-8; " + strings.Repeat("ö", 100)},
	} {
		for _, utf8 := range []bool{false, true} {
			var out strings.Builder
			j := &job{content: &content{header: header{
				Envelope: envelope{UTF8: utf8},
				To:       []recipient{{Address: "bob@example.com", Kind: smtp.DSNAddressType(tt.kind), Original: tt.original}},
			}}}
			(&reporter{job: j, kind: failed, out: &out}).recipient(failure{status: "5.1.1"})
			want, value := "\r\nFinal-Recipient: ", tt.ascii
			if utf8 {
				value = tt.utf8
			}
			if value != "" {
				want = "\r\nOriginal-Recipient: " + value + want
			}
			if !strings.HasPrefix(out.String(), want) {
				t.Errorf("%s;%s, SMTPUTF8 %v:\n%s", tt.kind, tt.original, utf8, out.String())
			}
		}
	}
}
