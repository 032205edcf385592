package server

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/policy"
	"postern/relay/message"
	"postern/relay/relaytest"
)

func testFixUps() fixUps {
	return fixUps{
		Sender: "alice@example.org",
		Origin: "example.org",
		NewID:  func() string { return "0123" },
		Trace:  testTrace(),
	}
}

func fixText(t testing.TB, text string, f fixUps) string {
	t.Helper()
	m, err := fixHeader(relaytest.Stage(t, text), f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(m.Reader())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const whole = "Date: x\r\nMessage-Id: y\r\nFrom: a@example.org\r\n"

func TestFixHeader(t *testing.T) {
	tr := testTrace()
	received := tr.field()
	const (
		id     = "Message-ID: <0123@example.org>\r\n"
		now    = "Date: Tue, 3 Nov 2026 04:05:06 +0100\r\n"
		author = "From: alice@example.org\r\n"
	)
	for _, c := range []struct{ name, in, want string }{
		{"nothing to do", whole + "X-Odd :\t1 \r\n  2\r\n\r\n\xff.\r\n", whole + "X-Odd :\t1 \r\n  2\r\n\r\n\xff.\r\n"},
		{"nothing there", "", id + now + author + "\r\n"},
		{"only a body", "Hello\r\n", id + now + author + "\r\nHello\r\n"},
		{"no Date", "message-id: x\r\nSubject: y\r\nFROM: z@example.com\r\n\r\n", "message-id: x\r\nSubject: y\r\nFROM: z@example.com\r\n" + now + "\r\n"},
		{"wrong Date and empty From stay", "Date: never\r\nMessage-ID:\r\nFrom:\r\n\r\n", "Date: never\r\nMessage-ID:\r\nFrom:\r\n\r\n"},
		{"resent", "Resent-From: bob\r\nResent-Bcc: x\r\n" + whole + "\r\n", "Resent-From: bob@example.org\r\n" + whole + "\r\n"},
		{"dropped", "bcc: x@example.org,\r\n y@example.org\r\nReturn-Path: <z>\r\n" + whole + "Content-Length : 3\r\nBcc:\r\nX-Bcc: 1\r\n\r\nBcc: z\r\n",
			whole + "X-Bcc: 1\r\n\r\nBcc: z\r\n"},
		{"qualified", whole + "To : bob,\r\n\t\"Doe, J\" <jane> (him)\r\nCC: T:eve;\r\nSubject: bob\r\n\r\nTo: bob\r\n",
			whole + "To : bob,\r\n\t\"Doe, J\" <jane@example.org> (him)\r\nCC: T:eve@example.org;\r\nSubject: bob\r\n\r\nTo: bob\r\n"},
		{"not understood", whole + "To: John Doe, bob\r\n\r\n", whole + "To: John Doe, bob\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := fixText(t, c.in, testFixUps())
			if want := received + c.want; got != want {
				t.Errorf("got\n%q\nwant\n%q", got, want)
			}
		})
	}
}

func TestFixHeaderNullSender(t *testing.T) {
	f := testFixUps()
	f.Sender = ""
	got := fixText(t, "Date: x\r\nMessage-ID: y\r\n\r\n", f)
	if want := "\r\nFrom: Mail Delivery System <MAILER-DAEMON@example.org>\r\n\r\n"; !strings.HasSuffix(got, want) {
		t.Errorf("%q", got)
	}
}

func TestFixHeaderLoop(t *testing.T) {
	received := strings.Repeat("Received: x\r\n", maxReceived)
	if _, err := fixHeader(relaytest.Stage(t, received+"\r\n"), testFixUps()); err != nil {
		t.Errorf("%d Received fields: %v", maxReceived, err)
	}
	_, err := fixHeader(relaytest.Stage(t, received+"RECEIVED:y\r\n\r\n"), testFixUps())
	var refusal *smtp.SMTPError
	if !errors.As(err, &refusal) || refusal.Code != 554 || refusal.EnhancedCode != (smtp.EnhancedCode{5, 4, 6}) {
		t.Errorf("one more: %v", err)
	}
}

// An origin with a newline must not add a line to a header.
func TestFixHeaderBadOrigin(t *testing.T) {
	f := testFixUps()
	f.Origin = "example.org\r\nEvil: x"
	if _, err := fixHeader(relaytest.Stage(t, "Subject: x\r\n\r\n"), f); err == nil {
		t.Error("no error")
	}
}

// qualifies has the value of a field and what it becomes in From, Sender and
// Reply-To (author), and in To and Cc (recipient). "" is an unchanged value.
var qualifies = []struct{ in, author, recipient string }{
	{" bob", " bob@example.org", " bob@example.org"},
	{" bob@example.com", "", ""},
	{" <bob>", " <bob@example.org>", " <bob@example.org>"},
	{" Bob <bob>", " Bob <bob@example.org>", " Bob <bob@example.org>"},
	{" bob (Bob)\r\n ", " bob@example.org (Bob)\r\n ", " bob@example.org (Bob)\r\n "},
	{" first.last", " first.last@example.org", " first.last@example.org"},
	{" alice, bob", " alice@example.org, bob@example.org", " alice@example.org, bob@example.org"},
	{" bob, eve@x,alice ", "", " bob@example.org, eve@x,alice@example.org "},
	{" alice,\r\n\tbob@x", "", " alice@example.org,\r\n\tbob@x"},
	{" a, b, c", " a@example.org, b@example.org, c@example.org", " a@example.org, b@example.org, c@example.org"},

	{" Smith, John <john@x>", "", ""},
	{" Smith,\r\n John <john@x>", "", ""},
	{" Smith, \"John\" <john@x>", "", ""},
	{" Smith (Jr), John <john@x>", "", ""},
	{" Smith, Dr., John <john@x>", "", ""},
	{" Smith, John Q. <john@x>", "", ""},
	{" van der Berg, Jan <jan@x>", "", ""},
	{" Smith, John <john>", " Smith, John <john@example.org>", " Smith, John <john@example.org>"},
	{" Smith, John <>", "", ""},
	{" Smith, MD, John <john@x>", "", " Smith@example.org, MD, John <john@x>"},
	{" alice, Smith, John <john@x>, bob", "", " alice@example.org, Smith, John <john@x>, bob@example.org"},
	{" alice, <john@x>", "", " alice@example.org, <john@x>"},
	{" Smith, John <john@x>,\r\n\tDoe, Jane <jane@x>", "", ""},

	{" =?utf-8?q?Smith,_John?= <john@x>", "", ""},
	{" =?utf-8?q?Smith,_John?= <john>", " =?utf-8?q?Smith,_John?= <john@example.org>", " =?utf-8?q?Smith,_John?= <john@example.org>"},
	{" =?utf-8?q?Smith,?=\r\n =?utf-8?q?_J=C3=B6rg?= <j@x>", "", ""},
	{" =?utf-8?b?U21pdGg=?=, John <john@x>", "", ""},
	{" =?utf-8?q?Smith,_John?=", "", ""},
	{" =?utf-8?q?Smith, Joe, John?=", "", ""},
	{" =?utf-8?q?What?,_J?= <john@x>", "", ""},
	{" =?utf-8?q?bob?=, alice", " =?utf-8?q?bob?=, alice@example.org", " =?utf-8?q?bob?=, alice@example.org"},
	{" <=?utf-8?q?bob?=>", "", ""},

	{" \"bob\"", "", ""},
	{" \"Smith, John\"", "", ""},
	{" \"Smith, John\", alice", " \"Smith, John\", alice@example.org", " \"Smith, John\", alice@example.org"},
	{" (a (b)) \"b o b\"", "", ""},
	{" Bob <\"b o b\">", "", ""},
	{" \"Smith, John\" <john>", " \"Smith, John\" <john@example.org>", " \"Smith, John\" <john@example.org>"},
	{" M\xc3\xbcller", "", ""},
	{" M\xc3\xbcller, J\xc3\xb6rg <j@x>", "", ""},
	{" \xfcber, J\xf6rg <j>", " \xfcber, J\xf6rg <j@example.org>", " \xfcber, J\xf6rg <j@example.org>"},

	{" friends: bob,\r\n\tEve <eve>;", " friends: bob,\r\n\tEve <eve@example.org>;", " friends: bob,\r\n\tEve <eve@example.org>;"},
	{" A: b, c;", " A: b@example.org, c@example.org;", " A: b@example.org, c@example.org;"},
	{" A: b;, C: Smith, John <john@x>;", "", " A: b@example.org;, C: Smith, John <john@x>;"},
	{" undisclosed-recipients:;", "", ""},
	{" Smith; John <john@x>", "", ""},
	{" alice; bob; eve@x", "", ""},

	{" host!bob, bob%host", "", ""},
	{" <@hub.example.net:bob>", "", ""},
	{" <>, \"\"", "", ""},
	{" Dr. Bob", "", ""},
	{" John Q. Public", "", ""},
	{" bob.", "", ""},
	{" bob eve, alice", "", ""},
	{" <bob", "", ""},
	{" bob@", "", ""},
	{"", "", ""},
}

// qualified passes one field through the fix-ups.
func qualified(t testing.TB, name, value, origin string) string {
	t.Helper()
	field, err := message.ParseField([]byte(name + ":" + value + "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	fixed, keep := (&fixUps{Origin: origin}).each(field)
	if !keep {
		t.Fatalf("%s was removed", name)
	}
	return string(fixed.Value())
}

func TestQualify(t *testing.T) {
	for _, c := range qualifies {
		for _, name := range authorFields {
			if got, want := qualified(t, name, c.in, "example.org"), cmp.Or(c.author, c.in); got != want {
				t.Errorf("%s:%q: %q, want %q", name, c.in, got, want)
			}
		}
		for _, name := range recipientFields {
			if got, want := qualified(t, name, c.in, "example.org"), cmp.Or(c.recipient, c.in); got != want {
				t.Errorf("%s:%q: %q, want %q", name, c.in, got, want)
			}
		}
	}
	if got := qualified(t, "Subject", " bob", "example.org"); got != " bob" {
		t.Errorf("Subject became %q", got)
	}
}

// The only change to a field is the added domain, and a second pass changes
// nothing. The first origin has a byte that makes it unlikely in the input.
func FuzzQualify(f *testing.F) {
	for _, c := range qualifies {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, err := message.ParseField([]byte("To:" + string(in) + "\r\n")); err != nil {
			t.Skip(err)
		}
		for _, name := range []string{"From", "To"} {
			const mark = "@\x7f.example"
			fixed := qualified(t, name, string(in), "\x7f.example")
			if !bytes.Contains(in, []byte(mark)) && strings.ReplaceAll(fixed, mark, "") != string(in) {
				t.Fatalf("%s:%q became %q", name, in, fixed)
			}
			fixed = qualified(t, name, string(in), "example.org")
			if again := qualified(t, name, fixed, "example.org"); again != fixed {
				t.Fatalf("%s:%q, then %q, then %q", name, in, fixed, again)
			}
		}
	})
}

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
