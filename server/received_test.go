package server

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/policy"
	"postern/relay/message"
)

func testTrace() trace {
	return trace{
		Hide: true, Helo: "laptop", PTR: "client.example.net", Remote: netip.MustParseAddr("192.0.2.7"),
		Extended: true, Login: true,
		TLS:      policy.TLS{Version: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256"},
		Hostname: "mail.example.org", ID: "c1.1",
		Now: time.Date(2026, 11, 3, 4, 5, 6, 0, time.FixedZone("", 3600)),
	}
}

func TestReceived(t *testing.T) {
	const end = " id c1.1\r\n\ttls TLS_AES_128_GCM_SHA256 (TLS 1.3);\r\n\tTue, 3 Nov 2026 04:05:06 +0100\r\n"
	for _, c := range []struct {
		name string
		edit func(*trace)
		want string
	}{
		{"hidden", func(*trace) {}, "Received: by mail.example.org (postern)\r\n\twith ESMTPSA" + end},
		{"shown", func(t *trace) { t.Hide = false },
			"Received: from laptop (client.example.net [192.0.2.7])\r\n\tby mail.example.org (postern)\r\n\twith ESMTPSA" + end},
		{"IPv6 without name", func(t *trace) { t.Hide, t.PTR, t.Remote = false, "", netip.MustParseAddr("2001:db8::1%eth0") },
			"Received: from laptop (unknown [IPv6:2001:db8::1])\r\n\tby mail.example.org (postern)\r\n\twith ESMTPSA" + end},
		{"mapped IPv4", func(t *trace) {
			t.Hide, t.Helo, t.Remote = false, "[192.0.2.7]", netip.MustParseAddr("::ffff:192.0.2.7")
		},
			"Received: from [192.0.2.7] (client.example.net [192.0.2.7])\r\n\tby mail.example.org (postern)\r\n\twith ESMTPSA" + end},
		{"hostile names", func(t *trace) { t.Hide, t.Helo, t.PTR = false, "x\r\nEvil: (y)\x00;\xff", "a b" },
			"Received: from x??Evil:??y???? (a?b [192.0.2.7])\r\n\tby mail.example.org (postern)\r\n\twith ESMTPSA" + end},
		{"clear text", func(t *trace) { t.TLS, t.Login = policy.TLS{}, false },
			"Received: by mail.example.org (postern)\r\n\twith ESMTP id c1.1;\r\n\tTue, 3 Nov 2026 04:05:06 +0100\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := testTrace()
			c.edit(&tr)
			if got := tr.field(); got != c.want {
				t.Errorf("got\n%q\nwant\n%q", got, c.want)
			}
		})
	}
}

// RFC 3848, and RFC 6531 for the UTF8 ones.
func TestReceivedProtocol(t *testing.T) {
	secure := policy.TLS{Version: "TLS 1.3"}
	for _, c := range []struct {
		trace trace
		want  string
	}{
		{trace{}, "SMTP"},
		{trace{TLS: secure}, "SMTP"},
		{trace{Extended: true}, "ESMTP"},
		{trace{Extended: true, TLS: secure}, "ESMTPS"},
		{trace{Extended: true, Login: true}, "ESMTPA"},
		{trace{Extended: true, TLS: secure, Login: true}, "ESMTPSA"},
		{trace{Extended: true, UTF8: true}, "UTF8SMTP"},
		{trace{Extended: true, UTF8: true, TLS: secure, Login: true}, "UTF8SMTPSA"},
	} {
		if got := c.trace.protocol(); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

// Whatever a client calls itself, the field stays one well-formed field.
func FuzzReceived(f *testing.F) {
	f.Add("laptop", "client.example.net")
	f.Add("x\r\nEvil: y", "a\x00b")
	f.Add(strings.Repeat("x", 2000), strings.Repeat("\xff", 2000))
	f.Fuzz(func(t *testing.T, helo, ptr string) {
		tr := testTrace()
		tr.Hide, tr.Helo, tr.PTR = false, helo, ptr
		field := tr.field()
		if _, err := message.ParseField([]byte(field)); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(field, "\r\n"); n != 5 {
			t.Errorf("%d lines: %q", n, field)
		}
		for line := range strings.SplitSeq(field, "\r\n") {
			if len(line) > 998 || !isPrintable(line) {
				t.Errorf("line %q", line)
			}
		}
	})
}

func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r != '\t' && (r < ' ' || r > '~') })
}
