package relay

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/textproto"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
	"postern/relay/relaytest"
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
	if r, err := newRecipient("bob@example.com", nil, false); err != nil || len(r.notify) > 0 || r.original != "" {
		t.Errorf("%+v, %v", r, err)
	}
}

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

// With values that pass the validation, the line is one command with the given parameters.
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

// wireForm returns the output of writeBody, with the end of data that its caller adds.
func wireForm(message string, buffer int) (string, error) {
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	err := writeBody(w, bufio.NewReaderSize(strings.NewReader(message), buffer))
	w.WriteString("\r\n.\r\n")
	w.Flush()
	return out.String(), err
}

func TestWriteBody(t *testing.T) {
	long := strings.Repeat("x", 100)
	tests := []struct{ name, message, want string }{
		{"empty", "", "\r\n.\r\n"},
		{"empty line", "\r\n", "\r\n.\r\n"},
		{"one line", "a\r\n", "a\r\n.\r\n"},
		{"no CRLF at the end", "a\r\nb", "a\r\nb\r\n.\r\n"},
		{"empty lines at the end", "a\r\n\r\n\r\n", "a\r\n\r\n\r\n.\r\n"},
		{"dot", ".\r\n", "..\r\n.\r\n"},
		{"dot first", ".a\r\n", "..a\r\n.\r\n"},
		{"dot without CRLF", "a\r\n.", "a\r\n..\r\n.\r\n"},
		{"dots", "..\r\n.\r\na.\r\n", "...\r\n..\r\na.\r\n.\r\n"},
		{"lines longer than the buffer", long + "\r\n." + long + "\r\n", long + "\r\n.." + long + "\r\n.\r\n"},
		{"8-bit", "\xe4\xff\x80\r\n", "\xe4\xff\x80\r\n.\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for buffer := 16; buffer < 40; buffer++ {
				got, err := wireForm(tt.message, buffer)
				if err != nil || got != tt.want {
					t.Fatalf("buffer of %d: got %q, error %v; want %q", buffer, got, err, tt.want)
				}
			}
		})
	}
}

func TestWriteBodyRefusesUncleanBytes(t *testing.T) {
	for _, message := range []string{
		"a\nb\r\n", "a\rb\r\n", "a\r\r\n", "a\r", "a\n", "\n", "\r", "a\x00b\r\n",
		"a\r\n.\nMAIL FROM:<x>\r\n", "a\n.\r\nMAIL FROM:<x>\r\n", "a\r.\r", "a\r\n.\r",
		strings.Repeat("x", 15) + "\rx\r\n", strings.Repeat("x", 15) + "\n\r\n", strings.Repeat("x", 16) + "\r",
	} {
		for buffer := 16; buffer < 40; buffer++ {
			if got, err := wireForm(message, buffer); !errors.Is(err, errUnclean) {
				t.Errorf("%q with a buffer of %d: wrote %q, error %v", message, buffer, got, err)
			}
		}
	}
}

func TestWriteBodyReportsFailures(t *testing.T) {
	broken := errors.New("broken")
	in := bufio.NewReader(io.MultiReader(strings.NewReader("a\r\n"), readerFunc(func([]byte) (int, error) { return 0, broken })))
	if err := writeBody(bufio.NewWriter(io.Discard), in); !errors.Is(err, broken) {
		t.Errorf("reading: %v", err)
	}
	out := bufio.NewWriterSize(writerFunc(func([]byte) (int, error) { return 0, broken }), 16)
	if err := writeBody(out, bufio.NewReader(strings.NewReader(strings.Repeat("a\r\n", 100)))); !errors.Is(err, broken) {
		t.Errorf("writing: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A clean message can be decoded from the output of writeBody; for any other one it returns
// an error.
func FuzzWriteBody(f *testing.F) {
	for _, s := range []string{"", ".\r\n", "a\r\n.\r\nb", "a\n.\nb", "\r\n\r\n", "..\r", "a\x00\r\n", strings.Repeat("x", 40) + "\r\n."} {
		f.Add(s, uint8(16))
	}
	f.Fuzz(func(t *testing.T, message string, buffer uint8) {
		wire, err := wireForm(message, int(buffer))
		rest := strings.ReplaceAll(message, "\r\n", "")
		if clean := !strings.ContainsAny(rest, "\r\n\x00"); clean != (err == nil) {
			t.Fatalf("%q: clean is %v, error %v", message, clean, err)
		}
		if err != nil {
			return
		}
		in := bufio.NewReader(strings.NewReader(wire))
		got, err := io.ReadAll(textproto.NewReader(in).DotReader())
		if err != nil || in.Buffered() > 0 {
			t.Fatalf("%q ends too early or not at all: %q, %v", message, wire, err)
		}
		want := strings.ReplaceAll(message, "\r\n", "\n")
		if !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if string(got) != want {
			t.Errorf("%q arrives as %q", message, got)
		}
	})
}

// A message of any length arrives at the hop unchanged.
func TestBodiesArriveUnchanged(t *testing.T) {
	config, ca := certificate(t)
	for name, options := range map[string]relaytest.Options{
		"clear text": {},
		"TLS":        {TLS: config, Implicit: true},
	} {
		t.Run(name, func(t *testing.T) {
			hop := relaytest.New(t, options)
			r := newRouter(t, func(c *Config) { c.CAFile = ca }, hop)
			for _, body := range []string{
				"", "\r\n", ".\r\n", "..\r\n.\r\n", strings.Repeat(".\r\n", 20000),
				strings.Repeat("x", 200<<10) + "\r\n", strings.Repeat("0123456789\r\n", 100000),
			} {
				want := "Subject: test\r\n\r\n" + body
				deliver(t, r, relaytest.Stage(t, want))
				all := hop.Delivered()
				if got := string(all[len(all)-1].Data); got != want {
					t.Errorf("%d bytes arrive as %d", len(want), len(got))
				}
			}
		})
	}
}

func BenchmarkWriteBody(b *testing.B) {
	line := strings.Repeat("x", 76) + "\r\n"
	for name, message := range map[string]string{
		"lines": strings.Repeat(line, 1<<20/len(line)),
		"dots":  strings.Repeat(".\r\n", 1<<20/3),
	} {
		b.Run(name, func(b *testing.B) {
			in, out := bufio.NewReaderSize(nil, blockSize), bufio.NewWriterSize(nil, blockSize)
			b.SetBytes(int64(len(message)))
			b.ReportAllocs()
			for b.Loop() {
				in.Reset(strings.NewReader(message))
				out.Reset(io.Discard)
				if err := writeBody(out, in); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/DotWriter", func(b *testing.B) { // the alternative in the standard library
			b.SetBytes(int64(len(message)))
			for b.Loop() {
				w := textproto.NewWriter(bufio.NewWriter(io.Discard)).DotWriter()
				io.WriteString(w, message)
				w.Close()
			}
		})
	}
}
