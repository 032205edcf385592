package relay

import (
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
)

var everything = extensions{size: true, eightBit: true, utf8: true, dsn: true}

func TestMailCommand(t *testing.T) {
	all := smtp.MailOptions{Size: 1000, UTF8: true, Return: smtp.DSNReturnFull, EnvelopeID: "a+20b=c", Body: smtp.Body7Bit, RequireTLS: true}
	const from = "a@example.org"
	for _, tt := range []struct {
		opts smtp.MailOptions
		hop  extensions
		want string
	}{
		{all, everything, " BODY=8BITMIME SIZE=1000 SMTPUTF8 RET=FULL ENVID=a+20b=c"},
		{all, extensions{}, ""},
		{all, extensions{size: true}, " SIZE=1000"},
		{all, extensions{eightBit: true}, " BODY=8BITMIME"},
		{all, extensions{eightBit: true, utf8: true}, " BODY=8BITMIME SMTPUTF8"},
		{all, extensions{dsn: true}, " RET=FULL ENVID=a+20b=c"},
		{smtp.MailOptions{}, everything, " BODY=8BITMIME"},
		{smtp.MailOptions{Size: -1}, everything, " BODY=8BITMIME"},
	} {
		if got := mailCommand(from, &tt.opts, tt.hop); got != "MAIL FROM:<"+from+">"+tt.want {
			t.Errorf("%+v: %s", tt.hop, got)
		}
	}
	if got := mailCommand("", &smtp.MailOptions{}, extensions{}); got != "MAIL FROM:<>" {
		t.Errorf("%s", got)
	}
}

func TestRcptCommand(t *testing.T) {
	notify := []smtp.DSNNotify{smtp.DSNNotifySuccess, smtp.DSNNotifyFailure}
	for _, tt := range []struct {
		notify         []smtp.DSNNotify
		kind, original string
		smtputf8       bool
		hop            extensions
		want           string
	}{
		{nil, "", "", false, everything, ""},
		{notify, "", "", false, everything, " NOTIFY=SUCCESS,FAILURE"},
		{notify, "rfc822", "b+C3+B6b", false, everything, " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+C3+B6b"},
		{notify, "rfc822", "b+C3+B6b", true, extensions{}, ""},
		{nil, "X400", "/C=fr/", true, everything, " ORCPT=X400;/C=fr/"},
		{nil, "utf-8", "böb", true, everything, " ORCPT=utf-8;böb"},
		{nil, "utf-8", `b\x{f6}b`, true, everything, ` ORCPT=utf-8;b\x{f6}b`},
		// RFC 6533, section 3: in ASCII where the line must be ASCII, or not at all.
		{nil, "utf-8", "böb", false, everything, ` ORCPT=utf-8;b\x{F6}b`},
		{nil, "UTF-8", "bö\\x{5c}b", false, extensions{dsn: true}, ` ORCPT=UTF-8;b\x{F6}\x{5C}b`},
		{notify, "utf-8", strings.Repeat("ö", 100), false, everything, " NOTIFY=SUCCESS,FAILURE"},
	} {
		r, err := newRecipient("b@example.com", &smtp.RcptOptions{
			Notify: tt.notify, OriginalRecipientType: smtp.DSNAddressType(tt.kind), OriginalRecipient: tt.original,
		}, tt.smtputf8)
		if err != nil {
			t.Errorf("%+v: %v", tt, err)
		}
		if got := rcptCommand(r, tt.smtputf8, tt.hop); got != "RCPT TO:<b@example.com>"+tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

// Postfix reads 2,048 octets of a command (line_length_limit).
func TestCommandsAreBounded(t *testing.T) {
	const most = 2048 - len("\r\n")
	address := strings.Repeat("x", MaxAddress)
	e := &Envelope{Sender: address, Options: smtp.MailOptions{
		Size: 1<<63 - 1, UTF8: true, Return: smtp.DSNReturnHeaders, EnvelopeID: strings.Repeat("+20", 100),
	}}
	if err := checkSender(e); err != nil {
		t.Fatal(err)
	}
	if n := len(mailCommand(e.Sender, &e.Options, everything)); n > most {
		t.Errorf("MAIL of %d octets", n)
	}
	for _, original := range []string{strings.Repeat("x", dsn.MaxOriginalRecipient-len("utf-8;")), strings.Repeat("ö", 82)} {
		r, err := newRecipient(address, &smtp.RcptOptions{
			Notify:                []smtp.DSNNotify{smtp.DSNNotifySuccess, smtp.DSNNotifyFailure, smtp.DSNNotifyDelayed},
			OriginalRecipientType: smtp.DSNAddressTypeUTF8, OriginalRecipient: original,
		}, true)
		if err != nil {
			t.Fatal(err)
		}
		if line := rcptCommand(r, false, everything); len(line) > most || !strings.Contains(line, "ORCPT=") {
			t.Errorf("RCPT of %d octets: %.80s", len(line), line)
		}
	}
}

// Whatever passes the validation stays one line, one command and the parameters
// that were meant.
func FuzzCommands(f *testing.F) {
	f.Add("a@example.org", "b@example.com", "id+20", "rfc822", "b+C3+B6b", true, true)
	f.Add("", `"b> NOTIFY=NEVER"@example.com`, "", "utf-8", `b\x{F6}b`, false, true)
	f.Add("a\r\n@x", "ö@example.com", "a b", "x400\r\n", "böb", true, false)
	f.Fuzz(func(t *testing.T, from, to, id, kind, original string, utf8, dsn bool) {
		e := &Envelope{Sender: from, Options: smtp.MailOptions{UTF8: utf8, EnvelopeID: id}}
		opts := &smtp.RcptOptions{OriginalRecipientType: smtp.DSNAddressType(kind), OriginalRecipient: original}
		if CheckRecipient(e, to, opts) != nil {
			return
		}
		r, err := newRecipient(to, opts, utf8)
		if err != nil {
			t.Fatal(err)
		}
		hop := extensions{dsn: dsn, utf8: true}
		mail, rcpt := mailCommand(from, &e.Options, hop), rcptCommand(r, utf8, hop)
		for _, line := range []string{mail, rcpt} {
			if strings.ContainsAny(line, "\r\n\x00") || len(line) > 2046 {
				t.Errorf("%q", line)
			}
			if !utf8 && strings.ContainsFunc(line, func(r rune) bool { return r > '~' }) {
				t.Errorf("not ASCII: %q", line)
			}
		}
		params := strings.TrimPrefix(rcpt, "RCPT TO:<"+to+">")
		if strings.Count(params, " ") > 1 || params != "" && !strings.HasPrefix(params, " ORCPT="+kind+";") {
			t.Errorf("parameters %q", params)
		}
		params = strings.TrimSuffix(strings.TrimPrefix(mail, "MAIL FROM:<"+from+">"), " ENVID="+id)
		if params != "" && params != " SMTPUTF8" {
			t.Errorf("parameters %q", params)
		}
	})
}
