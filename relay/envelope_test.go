package relay

import (
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
)

func TestCheckAddress(t *testing.T) {
	for _, address := range []string{
		"", "bob@example.com", `"john doe"@example.com`, `"a>b"@example.com`, `"a\"b"@example.com`, `"a\\"@example.com`,
		"bob@[192.0.2.1]", "bob+tag@example.com", "postmaster", strings.Repeat("x", MaxAddress),
	} {
		if err := checkAddress(address, false, badRecipient); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, address := range []string{
		"bob@example.com\r\nDATA", "bob\n@example.com", "bob\r@example.com", "bob\x00@example.com", "bob\x7f@example.com",
		"bob@example.com> NOTIFY=NEVER", "bob@example.com SIZE=1", "<bob@example.com>", `"bob@example.com`, `"a\"@example.com`,
		"\"a\r\nb\"@example.com", "\"\\\r\n\"@example.com", "bob\xff@example.com", "bob\u0085@example.com", strings.Repeat("x", MaxAddress+1),
	} {
		for _, utf8 := range []bool{false, true} {
			wantRefusal(t, checkAddress(address, utf8, badRecipient), "501 5.1.3")
		}
	}
	wantRefusal(t, checkAddress("bøb@example.com", false, badSender), "553 5.6.7")
	if err := checkAddress("bøb@example.com", true, badSender); err != nil {
		t.Error(err)
	}
}

func TestCheckSender(t *testing.T) {
	for want, e := range map[string]Envelope{
		"501 5.1.7":             {Sender: "a b@example.org"},
		"501 5.5.4 Malformed":   {Options: smtp.MailOptions{EnvelopeID: "a\r\nb"}},
		"501 5.5.4 Malformed D": {Options: smtp.MailOptions{EnvelopeID: strings.Repeat("x", 101)}},
		"501 5.5.4":             {Options: smtp.MailOptions{Return: "FULL SIZE=1"}},
	} {
		wantRefusal(t, checkSender(&e), want)
	}
}

func TestNewRecipient(t *testing.T) {
	for _, opts := range []*smtp.RcptOptions{
		{Notify: []smtp.DSNNotify{"NEVER", "FAILURE"}},
		{Notify: []smtp.DSNNotify{"FAILURE", "FAILURE"}},
		{Notify: []smtp.DSNNotify{"FAILURE\r\nDATA"}},
		{OriginalRecipientType: "rfc822", OriginalRecipient: "b\r\nob"},
		{OriginalRecipientType: "rfc822", OriginalRecipient: "b+0D+0Aob"},
		{OriginalRecipientType: "rfc822", OriginalRecipient: "b ob"},
		{OriginalRecipientType: "rfc822", OriginalRecipient: "bob+tag"},
		{OriginalRecipientType: "rfc822", OriginalRecipient: "bøb"},
		{OriginalRecipientType: "", OriginalRecipient: "bob"},
		{OriginalRecipientType: "x 400", OriginalRecipient: "bob"},
		{OriginalRecipientType: "utf-8", OriginalRecipient: "b\xff"},
		{OriginalRecipientType: "rfc822", OriginalRecipient: strings.Repeat("x", dsn.MaxOriginalRecipient)},
	} {
		_, err := newRecipient("bob@example.com", opts, true)
		wantRefusal(t, err, "501 5.5.4")
	}
	for _, opts := range []*smtp.RcptOptions{
		{OriginalRecipientType: "rfc822", OriginalRecipient: "b+C3+B6b@example.org"},
		{OriginalRecipientType: "RFC822", OriginalRecipient: "b+c3+b6=b@example.org"},
		{OriginalRecipientType: "x400", OriginalRecipient: "/C=fr/"},
		{OriginalRecipientType: "utf-8", OriginalRecipient: `b\x{F6}b@example.org`},
		{OriginalRecipientType: "utf-8", OriginalRecipient: "böb@example.org"},
	} {
		if _, err := newRecipient("bob@example.com", opts, false); err != nil {
			t.Errorf("%s;%s: %v", opts.OriginalRecipientType, opts.OriginalRecipient, err)
		}
	}
	_, err := newRecipient("", nil, false)
	wantRefusal(t, err, "501 5.1.3")
	if r, err := newRecipient("bob@example.com", nil, false); err != nil || r.wantsDSN() {
		t.Errorf("%+v, %v", r, err)
	}
}
