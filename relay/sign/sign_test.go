package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

// A recorder is the hop after the signer.
type recorder struct {
	sent   string
	closed bool
}

func (r *recorder) Begin(context.Context, *relay.Envelope) (relay.Transaction, error) { return r, nil }
func (r *recorder) Caps() relay.Caps                                                  { return relay.Caps{Known: true, Size: 7} }
func (r *recorder) Rcpt(context.Context, string, *smtp.RcptOptions) error             { return nil }
func (r *recorder) Close() error                                                      { r.closed = true; return nil }

func (r *recorder) Send(_ context.Context, m *message.Message) (relay.Receipt, error) {
	b, err := io.ReadAll(m.Reader())
	r.sent = string(b)
	return relay.Receipt{Hop: "recorder"}, err
}

// A fixture is a signer with two keys of example.org and their DNS.
type fixture struct {
	hop     *recorder
	signer  *Signer
	signing relay.NextHop // the signer before the hop
	log     kit.LogBuffer
	zone    map[string]string
}

func newFixture(t testing.TB, algorithms ...Algorithm) *fixture {
	t.Helper()
	f := &fixture{hop: &recorder{}, zone: map[string]string{}}
	var keys []Key
	for _, a := range algorithms {
		k := Key{Domain: "example.org", Selector: string(a), File: filepath.Join(t.TempDir(), "key.pem")}
		public, err := GenerateKey(k.File, a)
		if err != nil {
			t.Fatal(err)
		}
		record, err := TXTRecord(k.Domain, k.Selector, public)
		if err != nil {
			t.Fatal(err)
		}
		f.zone[record.Name] = record.Text
		keys = append(keys, k)
	}
	var err error
	if f.signer, err = New(keys, NewLog(f.log.Logger())); err != nil {
		t.Fatal(err)
	}
	f.signing = f.signer.Before(f.hop)
	return f
}

// send sends text of a client whose messages are signed through the signer, and returns what
// the hop received.
func (f *fixture) send(t testing.TB, text string) string {
	t.Helper()
	return f.sendAs(t, &relay.Envelope{Session: "c1", MaySign: true}, text)
}

func (f *fixture) sendAs(t testing.TB, e *relay.Envelope, text string) string {
	t.Helper()
	m := relaytest.Stage(t, text)
	defer m.Close()
	ctx := context.Background()
	tx, err := f.signing.Begin(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Send(ctx, m); err != nil {
		t.Fatal(err)
	}
	if err := tx.Close(); err != nil || !f.hop.closed {
		t.Errorf("Close was not passed on to the hop: %v", err)
	}
	return f.hop.sent
}

func (f *fixture) lookup(name string) ([]string, error) {
	if text, ok := f.zone[name]; ok {
		return []string{text}, nil
	}
	return nil, fmt.Errorf("no record %s", name)
}

// verify returns the error of each signature.
func (f *fixture) verify(t testing.TB, text string) []error {
	t.Helper()
	list, err := dkim.VerifyWithOptions(strings.NewReader(text), &dkim.VerifyOptions{LookupTXT: f.lookup})
	if err != nil {
		t.Fatal(err)
	}
	var errs []error
	for _, v := range list {
		errs = append(errs, v.Err)
	}
	return errs
}

const head = "Received: by mail.example.org\r\n\twith ESMTPSA id 1;\r\n\tTue, 3 Nov 2026 04:05:06 +0100\r\n" +
	"From: Alice <alice@Example.org>\r\nTo: bob@example.com,\r\n\t eve@example.net\r\n" +
	"Subject :  a  folded\r\n  subject \r\nDate: Tue, 3 Nov 2026 04:05:06 +0100\r\nMessage-ID: <1@example.org>\r\n"

var bodies = []struct{ name, body string }{
	{"plain", "Hello\r\n"},
	{"empty", ""},
	{"blank lines at the end", "Hello \t \r\n\r\n \r\n" + strings.Repeat("\r\n", 5000)},
	{"only blank lines", "\r\n\r\n \r\n"},
	{"8-bit", "Gr\xfc\xdfe \xe2\x82\xac\r\n.\r\n..\r\n"},
	{"long line", strings.Repeat("x ", 200<<10) + "\r\n"},
	{"in a file", strings.Repeat("0123456789  abcdef\t\r\n", 20<<10)},
}

func TestSignaturesVerify(t *testing.T) {
	f := newFixture(t, RSA, Ed25519)
	for _, c := range bodies {
		t.Run(c.name, func(t *testing.T) {
			in := head + "\r\n" + c.body
			out := f.send(t, in)
			if !strings.HasSuffix(out, in) {
				t.Errorf("the message itself has changed")
			}
			errs := f.verify(t, out)
			if len(errs) != 2 {
				t.Fatalf("%d signatures in %.2000q", len(errs), out)
			}
			for _, err := range errs {
				if err != nil {
					t.Error(err)
				}
			}
			for line := range strings.SplitSeq(out[:len(out)-len(in)], "\r\n") {
				if len(line) > 998 {
					t.Errorf("a line of %d bytes", len(line))
				}
			}
		})
	}
}

// If fields or text that a mail client displays are added, removed or changed, the
// signatures are not valid any more.
func TestTamperingFails(t *testing.T) {
	f := newFixture(t, RSA, Ed25519)
	out := f.send(t, head+"\r\nHello\r\n")
	for _, c := range []struct{ name, old, new string }{
		{"second From on top", "Received: ", "From: mallory@example.net\r\nReceived: "},
		{"second From below", "Message-ID: ", "From: mallory@example.net\r\nMessage-ID: "},
		{"second Subject", "Received: ", "Subject: x\r\nReceived: "},
		{"new Reply-To", "Received: ", "Reply-To: mallory@example.net\r\nReceived: "},
		{"new Content-Type", "Received: ", "Content-Type: text/html\r\nReceived: "},
		{"other To", "bob@", "rob@"},
		{"no Date", "Date: Tue, 3 Nov 2026 04:05:06 +0100\r\n", ""},
		{"body", "Hello", "Hallo"},
		{"longer body", "Hello\r\n", "Hello\r\nWorld\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, err := range f.verify(t, strings.Replace(out, c.old, c.new, 1)) {
				if err == nil {
					t.Error("still verifies")
				}
			}
		})
	}
	for _, err := range f.verify(t, "X-Spam: no\r\n"+strings.Replace(out, "subject \r\n", "subject\r\n", 1)) {
		if err != nil {
			t.Errorf("after a change that relays may make: %v", err)
		}
	}
}

var hTag = regexp.MustCompile(`(?m) h=([^;]*);`)

// h= lists each name once more than the message has it.
func TestOversigning(t *testing.T) {
	f := newFixture(t, Ed25519)
	out := f.send(t, head+"Cc: a@example.org\r\nCc: b@example.org\r\nX-Other: 1\r\n\r\n")
	found := hTag.FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no h= in %q", out)
	}
	names := map[string]int{}
	for name := range strings.SplitSeq(found[1], ":") {
		names[name]++
	}
	want := map[string]int{"cc": 3, "from": 2, "to": 2, "subject": 2, "date": 2, "message-id": 2}
	for _, name := range oversigned {
		n := max(want[strings.ToLower(name)], 1)
		if names[strings.ToLower(name)] != n {
			t.Errorf("%s is %d times in h=, want %d", name, names[strings.ToLower(name)], n)
		}
	}
	if len(names) != len(oversigned) || strings.Contains(out, " l=") {
		t.Errorf("%q", out)
	}
	if err := f.verify(t, out)[0]; err != nil {
		t.Error(err)
	}
}

func TestNotSigned(t *testing.T) {
	f := newFixture(t, Ed25519)
	for _, c := range []struct{ name, in, log string }{
		{"other domain", "From: a@example.net\r\n\r\n", ""},
		{"subdomain", "From: a@mail.example.org\r\n\r\n", ""},
		{"no domain", "From: a\r\n\r\n", ""},
		{"no From", "To: a@example.org\r\n\r\n", "0 From fields"},
		{"two From fields", "From: a@example.org\r\nFrom: a@example.org\r\n\r\n", "2 From fields"},
		{"nobody", "From: T:;\r\n\r\n", "no address in From"},
		{"two domains", "From: a@example.org, b@example.net\r\n\r\n", "several domains"},
		{"malformed", "From: <a@example.org\r\n\r\n", "malformed"},
		{"too much white space", "From: a@example.org\r\n\r\n" + strings.Repeat("\r\n", maxBlank/2+32<<10) + "x\r\n", "white space"},
		{"too many fields", "From: a@example.org\r\n" + strings.Repeat("References:\r\n", 100) + "\r\n", "100 fields References"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.log.Take()
			if out := f.send(t, c.in); out != c.in {
				t.Errorf("%.300q", out)
			}
			if c.log == "" && f.log.String() != "" || !strings.Contains(f.log.String(), c.log) {
				t.Errorf("log %q, want %q", f.log.String(), c.log)
			}
		})
	}
}

func TestSignedAuthors(t *testing.T) {
	f := newFixture(t, Ed25519)
	for _, from := range []string{"a@EXAMPLE.ORG", "a@example.org, B <b@example.org>", "T: a@example.org;", `"a, b" <"c d"@example.org> (x@example.net)`,
		"Smith, John <john@example.org>", "=?utf-8?q?Smith,_J?= <john@example.org>", "van der Berg, Jan <jan@example.org>", "alice, bob@example.org"} {
		out := f.send(t, "From: "+from+"\r\n\r\n")
		if errs := f.verify(t, out); len(errs) != 1 || errs[0] != nil {
			t.Errorf("%s: %v", from, errs)
		}
	}
}

func TestWeakKeyIsLogged(t *testing.T) {
	var log bytes.Buffer
	text := readTestdata(t, "pkcs1.pem")
	k := Key{Domain: "example.org", Selector: "s", File: writeFile(t, "key.pem", text, 0o600)}
	s, err := New([]Key{k}, NewLog(slog.New(slog.NewTextHandler(&log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "1024 bits") {
		t.Errorf("%q", log.String())
	}
	if caps := s.Before(&recorder{}).Caps(); caps.Size != 7 {
		t.Errorf("Caps: %+v", caps)
	}
}

// If the staged file cannot be read, the message is not sent without a signature.
func TestSendFailsWithTheStage(t *testing.T) {
	f := newFixture(t, RSA, Ed25519)
	m := relaytest.Stage(t, head+"\r\n"+strings.Repeat("0123456789abcdef\r\n", 20<<10))
	m.Close()
	tx, err := f.signing.Begin(context.Background(), &relay.Envelope{MaySign: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Send(context.Background(), m)
	var refusal *smtp.SMTPError
	if err == nil || errors.As(err, &refusal) || f.hop.sent != "" {
		t.Errorf("%v", err)
	}
}

func BenchmarkSign(b *testing.B) {
	for _, a := range [][]Algorithm{{RSA}, {Ed25519}, {RSA, Ed25519}} {
		for _, size := range []int{2 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%v/%dKiB", a, size>>10), func(b *testing.B) {
				f := newFixture(b, a...)
				m := relaytest.Stage(b, head+"\r\n"+strings.Repeat("0123456789 0123456789 0123456789 0123456789 0123456789 012345\r\n", size/64))
				b.SetBytes(m.Size())
				b.ReportAllocs()
				for b.Loop() {
					if _, err := f.signer.sign(context.Background(), m, true); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// A key is selected by the domain as spelled in DNS and d=.
func TestASCIIDomain(t *testing.T) {
	for in, want := range map[string]string{
		"Example.ORG":            "example.org",
		"b\u00fccher.example":    "xn--bcher-kva.example",
		"xn--bcher-kva.example":  "xn--bcher-kva.example",
		"A_B.example.org":        "a_b.example.org",
		"[192.0.2.1]":            "[192.0.2.1]",
		"":                       "",
		strings.Repeat("a", 999): strings.Repeat("a", 999),
	} {
		if got := asciiDomain(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
