package test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
	"postern/relay"
	"postern/relay/relaytest"
	"postern/test/kit"
)

// sendsTo returns the settings of a Postfix that logs in to postern as alice, over TLS, as
// a Postfix that submits mail to a provider does.
func sendsTo(p *postern) []string {
	hop := fmt.Sprintf("[127.0.0.1]:%d", p.ports[startTLS])
	return []string{
		"smtputf8_enable = yes",
		"smtp_tls_security_level = encrypt",
		"smtp_sasl_auth_enable = yes",
		"smtp_sasl_mechanism_filter = plain",
		"smtp_sasl_security_options = noanonymous",
		"smtp_sasl_password_maps = inline:{ { " + hop + " = alice:" + password + " } }",
	}
}

// The DSN parameters that one Postfix sends to postern reach another Postfix unchanged. The
// first encodes the octets of a UTF-8 recipient in an ORCPT of the type rfc822 (RFC 3461,
// section 4; RFC 6533, section 3).
func TestDSNFromPostfixToPostfix(t *testing.T) {
	t.Parallel()
	peer(t, "root", "postfix")
	s := startSink(t)
	hop := startPostfix(t, s, "smtputf8_enable = yes")
	p := startPostern(t, posternOptions{NextHop: hop.URL})
	sender := startPostfixTo(t, p.ports[startTLS], sendsTo(p)...)
	for _, tt := range []struct {
		name       string
		mail, rcpt string // parameters for the sending Postfix
		to         string
		wantMail   string // of those that arrive
		wantRcpt   string
	}{
		{"ascii", "RET=HDRS ENVID=a+20b+2Bc", "NOTIFY=FAILURE,DELAY", "bob@example.net",
			"ENVID=a+20b+2Bc RET=HDRS", "ORCPT=rfc822;bob@example.net NOTIFY=FAILURE,DELAY"},
		{"utf8", "SMTPUTF8 RET=FULL ENVID=u1", "NOTIFY=SUCCESS,FAILURE", "b\u00f6b@example.net",
			"ENVID=u1 RET=FULL SMTPUTF8", "ORCPT=rfc822;b+C3+B6b@example.net NOTIFY=SUCCESS,FAILURE"},
		{"utf8-type", "SMTPUTF8 ENVID=u2", `NOTIFY=FAILURE ORCPT=utf-8;r\x{F6}b@example.net`, "b\u00f6b@example.net",
			"ENVID=u2 SMTPUTF8", `ORCPT=utf-8;r\x{F6}b@example.net NOTIFY=FAILURE`},
		{"any-type", "ENVID=x+3dy", "NOTIFY=FAILURE ORCPT=x400;/C+3Dfr/", "bob@example.net",
			"ENVID=x+3Dy", "ORCPT=x400;/C+3Dfr/ NOTIFY=FAILURE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := sender.dial(t)
			err := c.wantAll("", "EHLO client.example.org",
				"MAIL FROM:<alice@example.org> "+tt.mail, "RCPT TO:<"+tt.to+"> "+tt.rcpt, "DATA")
			kit.Must(t, err)
			kit.Must(t, accepted(c.finish(letter("dsn-"+tt.name))))
			got := s.wait(t, "<dsn-"+tt.name+"@")
			if got.From != "alice@example.org" || !slices.Equal(got.To, []string{tt.to}) {
				t.Errorf("from %q to %q", got.From, got.To)
			}
			if mail := withoutSize(got.Params[0]); mail != tt.wantMail {
				t.Errorf("MAIL with %q, want %q", mail, tt.wantMail)
			}
			if got.Params[1] != tt.wantRcpt {
				t.Errorf("RCPT with %q, want %q", got.Params[1], tt.wantRcpt)
			}
		})
	}
}

// withoutSize leaves out the parameters that depend on the message.
func withoutSize(params string) string {
	kept := slices.DeleteFunc(strings.Fields(params), func(p string) bool {
		return strings.HasPrefix(p, "SIZE=") || strings.HasPrefix(p, "BODY=")
	})
	return strings.Join(kept, " ")
}

// Postfix accepts what the relay writes into MAIL and RCPT: values that go-smtp's client
// refuses, and the longest ones that the relay allows.
func TestRelayParametersAtPostfix(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s, "smtputf8_enable = yes")
	router := newRelay(t, hop.URL)
	long := func(domain string) string { return strings.Repeat("x", relay.MaxAddress-len(domain)) + domain }
	for _, tt := range []struct {
		name         string
		from, to     string
		utf8         bool
		id           string
		kind, orcpt  string
		wantMail     string
		wantOriginal string
	}{
		{"octets", "alice@example.org", "bob@example.net", false, "a+20b+2bc=d", "rfc822", "b+C3+b6=b@example.net",
			"ENVID=a+20b+2Bc+3Dd RET=HDRS", "ORCPT=rfc822;b+C3+B6+3Db@example.net"},
		{"type", "alice@example.org", "bob@example.net", false, "", "x400", "/C+3Dfr/", "RET=HDRS", "ORCPT=x400;/C+3Dfr/"},
		{"unitext", "alice@example.org", "b\u00f6b@example.net", true, "", "utf-8", "r\u00f6b@example.net",
			"RET=HDRS SMTPUTF8", `ORCPT=utf-8;r\x{F6}b@example.net`},
		{"seven-bit", "alice@example.org", "bob@example.net", false, "", "utf-8", "r\u00f6b@example.net",
			"RET=HDRS", `ORCPT=utf-8;r\x{F6}b@example.net`},
		{"longest", long("@example.org"), long("@example.net"), false, strings.Repeat("+2B", 100),
			"rfc822", strings.Repeat("y", dsn.MaxOriginalRecipient-len("rfc822;")),
			"ENVID=" + strings.Repeat("+2B", 100) + " RET=HDRS", "ORCPT=rfc822;" + strings.Repeat("y", dsn.MaxOriginalRecipient-len("rfc822;"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tx, err := router.Begin(t.Context(), &relay.Envelope{Sender: tt.from, Options: smtp.MailOptions{
				UTF8: tt.utf8, Return: smtp.DSNReturnHeaders, EnvelopeID: tt.id,
			}})
			kit.Must(t, err)
			defer tx.Close()
			err = tx.Rcpt(t.Context(), tt.to, &smtp.RcptOptions{
				Notify:                []smtp.DSNNotify{smtp.DSNNotifyFailure, smtp.DSNNotifyDelayed},
				OriginalRecipientType: smtp.DSNAddressType(tt.kind), OriginalRecipient: tt.orcpt,
			})
			kit.Must(t, err)
			if _, err := tx.Send(t.Context(), relaytest.Stage(t, letter("params-"+tt.name))); err != nil {
				t.Fatal(err)
			}
			got := s.wait(t, "<params-"+tt.name+"@")
			if got.From != tt.from || !slices.Equal(got.To, []string{tt.to}) {
				t.Errorf("from %.60q to %.60q", got.From, got.To)
			}
			if mail := withoutSize(got.Params[0]); mail != tt.wantMail {
				t.Errorf("MAIL with %q, want %q", mail, tt.wantMail)
			}
			if want := tt.wantOriginal + " NOTIFY=FAILURE,DELAY"; got.Params[1] != want {
				t.Errorf("RCPT with %q, want %q", got.Params[1], want)
			}
		})
	}
}

// newRelay returns the relay to one hop, without a server.
func newRelay(t *testing.T, url string) *relay.Router {
	t.Helper()
	cfg := relay.Defaults()
	cfg.NextHops, cfg.HeloName = make([]relay.HopURL, 1), "postern.example.org"
	kit.Must(t, cfg.NextHops[0].UnmarshalText([]byte(url)))
	r, err := relay.New(cfg, relay.NewLog(slog.New(slog.DiscardHandler)))
	kit.Must(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}
