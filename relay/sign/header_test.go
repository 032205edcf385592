package sign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"postern/relay"
	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/test/kit"
)

// Signing allocates in proportion to the size of the message, whatever its header.
func TestSigningIsLinear(t *testing.T) {
	f := newFixture(t, Ed25519)
	for _, size := range []int{2 << 10, 32 << 10} { // below the bounds, and above
		kit.LinearGrowth(t, kit.HostileHeaders(), size, func(text string) func() {
			m := relaytest.TryStage(t, text)
			if m == nil {
				return nil // too many fields
			}
			return func() {
				var no unsignable
				if _, err := f.signer.sign(context.Background(), m, true); err != nil && !errors.As(err, &no) {
					t.Error(err)
				}
			}
		})
	}
}

// folded returns a field of n lines.
func folded(name string, n int) string { return name + ":" + strings.Repeat(" x\r\n", n) }

// Fields that are as large as a signed one may be are signed, and the signature is that of
// the folded fields in the message. Larger ones are not signed.
func TestBoundsOfFields(t *testing.T) {
	f := newFixture(t, RSA, Ed25519)
	const from = "From: a@example.org\r\n"
	full := func(name string, size int) string {
		return name + ":" + strings.Repeat("x", size-len(name)-3) + "\r\n"
	}
	for _, c := range []struct{ name, header, log string }{
		{"lines", from + folded("Subject", maxLines), ""},
		{"too many lines", from + folded("Subject", maxLines+1), "a field Subject of 10001 lines; at most 10000 are signed"},
		{"bytes", from + full("To", maxField), ""},
		{"too many bytes", from + full("To", maxField+1), "a field To of 102401 bytes; at most 102400 are signed"},
		{"the author", "From: a@example.org" + strings.Repeat("\r\n ", maxLines-1) + "\r\n", ""},
		{"words", from + folded("Subject", maxLines) + folded("To", maxLines-1), ""}, // and one in From
		{"too many words", from + folded("Subject", maxLines) + folded("To", maxLines), "more than 20000 words"},
		{"a field that is not signed", from + folded("X-Subject", 3*maxLines) + full("X-To", 2*maxField), ""},
		{"only blanks", from + "Subject:" + strings.Repeat(" \r\n", maxLines), ""},
		{"blanks", from + "Subject:" + strings.Repeat(" \t", 10000) + "x" + strings.Repeat(" \t\r\n", 5000) + " y \r\n", ""},
		{"folded before the text", from + "Subject: \r\n\tx\r\n", ""},
		{"empty", from + "Subject:\r\nTo: \r\nCc:\r\n \r\n", ""},
		{"blanks before the colon", "FROM \t: a@example.org\r\nsubject : x\r\n", ""},
		{"other white space", from + "Subject: a\v b\f\u00a0c \x01 d\r\n", ""},
		{"8-bit", from + "Subject: \xff\xc3\xbc\r\n \xe4\r\n", ""},
		{"several of a name", from + "To: 1\r\nX: 2\r\nTo: 3\r\n 4\r\nTo:\r\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.log.Take()
			in := c.header + "\r\nHello\r\n"
			out := f.send(t, in)
			if c.log != "" {
				if out != in || !strings.Contains(f.log.String(), c.log) {
					t.Errorf("signed: %v, log %q, want %q", out != in, f.log.String(), c.log)
				}
				return
			}
			if errs := f.verify(t, out); len(errs) != 2 || errors.Join(errs...) != nil {
				t.Errorf("%v, log %q", errs, f.log.String())
			}
			if !strings.HasSuffix(out, in) {
				t.Error("the message itself has changed")
			}
		})
	}
}

// A message of a client that may not have it signed stays without a signature. Only where a
// key would sign it, the log says so.
func TestNotAuthorized(t *testing.T) {
	f := newFixture(t, RSA, Ed25519)
	for _, c := range []struct{ name, header, log string }{
		{"own domain", "From: ceo@example.org\r\n", string(notAuthorized)},
		{"group", "From: board: ceo@EXAMPLE.org, cto@example.org;\r\n", string(notAuthorized)},
		{"Sender of another domain", "From: ceo@example.org\r\nSender: a@example.net\r\n", string(notAuthorized)},
		{"Sender of the own domain", "From: a@example.net\r\nSender: ceo@example.org\r\n", ""},
		{"other domain", "From: a@example.net\r\n", ""},
		{"two From fields", "From: ceo@example.org\r\nFrom: ceo@example.org\r\n", ""},
		{"two domains", "From: ceo@example.org, a@example.net\r\n", ""},
		{"malformed", "From: <ceo@example.org\r\n", ""},
		{"no From", "Subject: x\r\n", ""},
		{"too large", folded("From: ceo@example.org", 2*maxLines), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.log.Take()
			in := c.header + "\r\n"
			out := f.sendAs(t, &relay.Envelope{Session: "c1"}, in)
			if out != in {
				t.Errorf("%q", out)
			}
			if c.log == "" && f.log.String() != "" || !strings.Contains(f.log.String(), c.log) {
				t.Errorf("log %q, want %q", f.log.String(), c.log)
			}
		})
	}
}

// The end of the context ends signing: the message is neither sent nor read further.
func TestContextEndsSigning(t *testing.T) {
	f := newFixture(t, RSA, Ed25519)
	for _, body := range []string{"", strings.Repeat("0123456789abcdef\r\n", 40<<10)} {
		m := relaytest.Stage(t, head+"\r\n"+body)
		ctx, cancel := context.WithCancelCause(context.Background())
		tx, err := f.signing.Begin(ctx, &relay.Envelope{MaySign: true})
		if err != nil {
			t.Fatal(err)
		}
		hangUp := errors.New("the client has disconnected")
		cancel(hangUp)
		if _, err = tx.Send(ctx, m); !errors.Is(err, hangUp) || f.hop.sent != "" {
			t.Errorf("%v, sent %d bytes", err, len(f.hop.sent))
		}
	}
	h, err := headerOf(relaytest.Stage(t, head+"\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	body := &endless{after: 5, do: cancel}
	_, err = signatures(ctx, h, body, f.signer.keys["example.org"])
	if !errors.Is(err, context.Canceled) || body.reads > 6 {
		t.Errorf("%v after %d reads", err, body.reads)
	}
}

// An endless body calls do at one of its reads.
type endless struct {
	reads, after int
	do           func()
}

func (e *endless) Read(p []byte) (int, error) {
	if e.reads++; e.reads == e.after {
		e.do()
	}
	if e.reads > 100 {
		return 0, io.EOF
	}
	return copy(p, "x\r\n"), nil
}

// go-msgauth gets only the signed fields, each on one line.
func TestWriteHeader(t *testing.T) {
	m := relaytest.Stage(t, "X-1: y\r\n"+head+"Cc :\r\nX-2: y\r\nCc:\ta \r\n b\r\n\r\n")
	h, err := headerOf(m)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	if err := h.writeTo(&got); err != nil {
		t.Fatal(err)
	}
	want := "from:Alice <alice@Example.org>\r\nto:bob@example.com, eve@example.net\r\nsubject:a folded subject\r\n" +
		"date:Tue, 3 Nov 2026 04:05:06 +0100\r\nmessage-id:<1@example.org>\r\ncc:\r\ncc:a b\r\n\r\n"
	if got.String() != want {
		t.Errorf("%q\nwant %q", got.String(), want)
	}
}

// Labels that DNS cannot hold are not encoded: that takes time that grows with the square of
// their length.
func TestLongLabels(t *testing.T) {
	var label strings.Builder
	for r := '\u4e00'; label.Len() < 3*(maxLabel+1); r++ {
		label.WriteRune(r)
	}
	long := label.String()
	if got := asciiDomain(long + ".example"); got != long+".example" {
		t.Errorf("%q", got)
	}
	if got := asciiDomain(long[:3*14] + ".example"); !strings.HasPrefix(got, "xn--") {
		t.Errorf("%q", got)
	}
	f := newFixture(t, Ed25519)
	for _, in := range []string{"a@" + long + ".example", fmt.Sprintf("a@example.org, b@%s.example", long)} {
		m := relaytest.Stage(t, "From: "+in+"\r\n\r\n")
		if signed, err := f.signer.sign(context.Background(), m, true); err == nil && signed != (*message.Message)(m) {
			t.Errorf("%s was signed", in)
		}
	}
}

// The signature verifies over the fields as they are in the message, however they are folded.
func FuzzFoldedFields(f *testing.F) {
	for _, s := range []string{" a\r\n b", "\t\r\n\t a \t", " \r\n \r\n ", "", "a:b\r\n :", "\v\f\r\n \u00a0", "\xff\r\n\t\xc3\xbc", " x\r\n " + strings.Repeat("\t ", 5000)} {
		f.Add("Subject", s)
		f.Add("tO \t", s)
	}
	fix := newFixture(f, Ed25519)
	f.Fuzz(func(t *testing.T, name, value string) {
		field, err := message.ParseField([]byte(name + ":" + value + "\r\n"))
		if err != nil || field.Is("From") || field.Is("DKIM-Signature") {
			t.Skip()
		}
		fix.log.Take()
		out := fix.send(t, "From: a@example.org\r\n"+string(field.Raw)+"\r\nx\r\n")
		if errs := fix.verify(t, out); fix.log.String() == "" && (len(errs) != 1 || errs[0] != nil) {
			t.Errorf("%q: %v", field.Raw, errs)
		}
	})
}
