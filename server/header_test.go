package server

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
)

func testFixUps() fixUps {
	return fixUps{
		Sender: "alice@example.org",
		Origin: "example.org",
		NewID:  func() string { return "0123" },
		Trace:  testTrace(),
	}
}

func stageText(t testing.TB, text string) *message.Message {
	t.Helper()
	w := message.NewStage("", 1<<20).New(message.Options{})
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	m, err := w.Message()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func fixText(t testing.TB, text string, f fixUps) string {
	t.Helper()
	m, err := fixHeader(stageText(t, text), f)
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
			whole + "To : bob@example.org,\r\n\t\"Doe, J\" <jane@example.org> (him)\r\nCC: T:eve@example.org;\r\nSubject: bob\r\n\r\nTo: bob\r\n"},
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
	if _, err := fixHeader(stageText(t, received+"\r\n"), testFixUps()); err != nil {
		t.Errorf("%d Received fields: %v", maxReceived, err)
	}
	_, err := fixHeader(stageText(t, received+"RECEIVED:y\r\n\r\n"), testFixUps())
	var refusal *smtp.SMTPError
	if !errors.As(err, &refusal) || refusal.Code != 554 || refusal.EnhancedCode != (smtp.EnhancedCode{5, 4, 6}) {
		t.Errorf("one more: %v", err)
	}
}

// Nothing that an origin with a newline could bring may get into a header.
func TestFixHeaderBadOrigin(t *testing.T) {
	f := testFixUps()
	f.Origin = "example.org\r\nEvil: x"
	if _, err := fixHeader(stageText(t, "Subject: x\r\n\r\n"), f); err == nil {
		t.Error("no error")
	}
}

var qualifies = []struct{ in, want string }{
	{" bob", " bob@example.org"},
	{" bob@example.com", " bob@example.com"},
	{" bob, eve@x,alice ", " bob@example.org, eve@x,alice@example.org "},
	{" Bob <bob>", " Bob <bob@example.org>"},
	{" bob (Bob)\r\n ", " bob@example.org (Bob)\r\n "},
	{" (a (b)) \"b o b\"", " (a (b)) \"b o b\"@example.org"},
	{" friends: bob,\r\n\tEve <eve>;", " friends: bob@example.org,\r\n\tEve <eve@example.org>;"},
	{" undisclosed-recipients:;", " undisclosed-recipients:;"},
	{" =?utf-8?q?B=C3=B6b?= <bob>", " =?utf-8?q?B=C3=B6b?= <bob@example.org>"},
	{" host!bob, bob%host", " host!bob, bob%host"},
	{" <>, \"\"", " <>, \"\""},
	{" bob eve", " bob eve"},
	{" <bob", " <bob"},
	{"", ""},
}

func TestQualify(t *testing.T) {
	for _, c := range qualifies {
		got, changed := qualify([]byte(c.in), "example.org")
		if string(got) != c.want || changed != (c.in != c.want) {
			t.Errorf("%q: %q, %v; want %q", c.in, got, changed, c.want)
		}
	}
}

// Nothing is taken away from a list and nothing but the domain put in, and
// what has been qualified needs it no more.
func FuzzQualify(f *testing.F) {
	for _, c := range qualifies {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		const mark = "@\x7f.example"
		fixed, changed := qualify(in, "\x7f.example")
		if !bytes.Contains(in, []byte(mark)) && string(bytes.ReplaceAll(fixed, []byte(mark), nil)) != string(in) {
			t.Fatalf("%q became %q", in, fixed)
		}
		if changed == bytes.Equal(fixed, in) {
			t.Fatalf("%q: changed is %v", in, changed)
		}
		fixed, _ = qualify(in, "example.org")
		if again, changed := qualify(fixed, "example.org"); changed {
			t.Fatalf("%q, qualified %q, then %q", in, fixed, again)
		}
	})
}
