package smtpd

import (
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/internal/text"
)

// FuzzMailParameters and FuzzRcptParameters: what is accepted is what the tables
// allow, and nothing that could end a command line.
func FuzzMailParameters(f *testing.F) {
	for _, seed := range []string{
		"SIZE=1", "SIZE=99999999999999999999", "size=1 BODY=8bitmime SMTPUTF8 RET=HDRS ENVID=x+2B AUTH=<>", "SIZE=1 SIZE=1", "BODY",
		"SMTPUTF8=1", "ENVID=+0D+0A", "AUTH=", "X=1", "=", "RET=FULL\tENVID=a=b", "\u017fIZE=1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := &Conn{cfg: testConfig(), offer: Offer{Size: 1000, DSN: true, UTF8: true}}
		var o smtp.MailOptions
		if r := parseParameters(c, text, mailParameters, &o); r != nil {
			if r.Code != 501 && r.Code != 504 && r.Code != 552 && r.Code != 555 {
				t.Fatalf("%q: %d", text, r.Code)
			}
			return
		}
		if o.Size < 0 || o.Size > 1000 || len(o.EnvelopeID) > 300 || strings.ContainsFunc(o.EnvelopeID, notGraphic) || o.Auth != nil || o.RequireTLS {
			t.Fatalf("%q became %+v", text, o)
		}
		if o.Body != "" && o.Body != smtp.Body7Bit && o.Body != smtp.Body8BitMIME {
			t.Fatalf("%q became %+v", text, o)
		}
	})
}

func FuzzRcptParameters(f *testing.F) {
	for _, seed := range []string{
		"NOTIFY=NEVER", "notify=success,DELAY ORCPT=rfc822;b+C3+B6b@example.org", "ORCPT=utf-8;\u00f6@x", "ORCPT=;x", "NOTIFY=NEVER,NEVER", "NOTIFY=,",
		"ORCPT=x400;/c=us", "ORCPT=rfc822;+0a", "NOTIFY",
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, parameters string, utf8 bool) {
		c := &Conn{cfg: testConfig(), offer: Offer{DSN: true}}
		c.mail.utf8 = utf8
		var o smtp.RcptOptions
		if parseParameters(c, parameters, rcptParameters, &o) != nil {
			return
		}
		sent := string(o.OriginalRecipientType) + o.OriginalRecipient
		if strings.ContainsAny(sent, " \t\r\n\x00") || len(sent) > 500 || len(o.Notify) > 3 {
			t.Fatalf("%q became %+v", parameters, o)
		}
		if !utf8 && !text.IsASCII(sent) {
			t.Fatalf("%q became %+v without SMTPUTF8", parameters, o)
		}
		if empty := reflect.DeepEqual(o, smtp.RcptOptions{}); empty && strings.TrimSpace(parameters) != "" {
			t.Fatalf("%q was accepted for nothing", parameters)
		}
	})
}

func notGraphic(r rune) bool { return r <= ' ' || r > '~' }

func TestParseNumber(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "00": 0, "123": 123, "9223372036854775807": 1<<63 - 1, "9223372036854775808": 1<<63 - 1,
		strings.Repeat("9", 5000): 1<<63 - 1, "": -1, "-1": -1, "+1": -1, "1 ": -1, "0x1": -1, "1e3": -1, "\u0661": -1,
	} {
		n, ok := parseNumber(text)
		if ok != (want >= 0) || ok && n != want {
			t.Errorf("%.30q: %d, %v", text, n, ok)
		}
	}
}

// TestParametersKeepNoLine: a client that pads its lines does not make the server keep
// them for each recipient.
func TestParametersKeepNoLine(t *testing.T) {
	c := &Conn{cfg: testConfig(), offer: Offer{DSN: true}}
	all := make([]smtp.RcptOptions, 1000)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range all {
		line := "NOTIFY=SUCCESS" + strings.Repeat(" ", 16<<10) + "ORCPT=rfc822;a@b.example"
		if r := parseParameters(c, line, rcptParameters, &all[i]); r != nil {
			t.Fatal(r.Text())
		}
	}
	if after := heap(); after > before+4<<20 {
		t.Errorf("%d octets are kept for %d recipients", after-before, len(all))
	}
	if all[0].Notify[0] != smtp.DSNNotifySuccess || all[999].OriginalRecipient != "a@b.example" {
		t.Errorf("%+v", all[0])
	}
}
