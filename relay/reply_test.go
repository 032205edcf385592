package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-smtp"
)

// readerPair returns a replyReader and the hop's end of its connection.
func readerPair(t testing.TB) (*replyReader, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return newReplyReader(ours), theirs
}

func TestReply(t *testing.T) {
	tests := []struct {
		name, in string
		code     int // 0 means that it is not a reply
	}{
		{"plain", "250 ok\r\n", 250},
		{"no text", "250\r\n", 250},
		{"space only", "250 \r\n", 250},
		{"lines", "250-a\r\n250-\r\n250 c\r\n", 250},
		{"utf-8", "550 5.1.1 Gr\u00fc\u00dfe\r\n", 550},
		{"highest", "599 x\r\n", 599},
		{"longest line", "250 " + strings.Repeat("x", maxReplyLine-6) + "\r\n", 250},
		{"most lines", strings.Repeat("250-x\r\n", maxReplyLines-1) + "250 x\r\n", 250},
		{"line too long", "250 " + strings.Repeat("x", maxReplyLine-5) + "\r\n", 0},
		{"too many lines", strings.Repeat("250-x\r\n", maxReplyLines) + "250 x\r\n", 0},
		{"empty line", "\r\n", 0},
		{"short", "25\r\n", 0},
		{"letters", "abc def\r\n", 0},
		{"no separator", "2500 ok\r\n", 0},
		{"tab", "250\tok\r\n", 0},
		{"bare LF", "250 ok\n", 0},
		{"bare LF inside", "250-a\n250 b\r\n", 0},
		{"bare CR inside", "250 a\rb\r\n", 0},
		{"double CR", "250 a\r\r\n", 0},
		{"1yz", "199 x\r\n", 0},
		{"0yz", "000 x\r\n", 0},
		{"6yz", "600 x\r\n", 0},
		{"codes differ", "250-a\r\n251 b\r\n", 0},
		{"line without code", "250-a\r\nb\r\n250 c\r\n", 0},
		{"cut short", "250 o", 0},
		{"cut after a line", "250-a\r\n", 0},
		{"nothing", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, hop := readerPair(t)
			io.WriteString(hop, tt.in)
			hop.Close()
			r, err := w.reply()
			if tt.code == 0 && err == nil || tt.code != 0 && err != nil || r.code != tt.code {
				t.Fatalf("code %d, error %v; want code %d", r.code, err, tt.code)
			}
			if err == nil && string(r.raw) != tt.in {
				t.Errorf("raw %q", r.raw)
			}
		})
	}
}

// Bytes that the hop sends after a reply are an error, since they would be taken for the reply
// to the next command.
func TestOutOfStep(t *testing.T) {
	w, hop := readerPair(t)
	io.WriteString(hop, "250 ok\r\n250 ok again\r\n")
	if _, err := w.reply(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("DATA\r\n")); !errors.Is(err, errOutOfStep) {
		t.Errorf("got %v", err)
	}
	if err := w.upgrade(t.Context(), nil); !errors.Is(err, errOutOfStep) {
		t.Errorf("STARTTLS: got %v", err)
	}
}

// go-smtp's client can read a reply in small pieces and gets no byte of the next one.
func TestReplyReaderRead(t *testing.T) {
	w, hop := readerPair(t)
	io.WriteString(hop, "250-a\r\n250 b\r\n")
	got, p := "", make([]byte, 4)
	for len(got) < 14 {
		n, err := w.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		got += string(p[:n])
	}
	if want := "250-a\r\n250 b\r\n"; got[:len(want)] != want {
		t.Errorf("got %q", got)
	}
}

// MAIL and RCPT are sent together. Their replies arrive together, separately, or broken, and
// the result is the first refusal.
func TestPendingMail(t *testing.T) {
	const none = "no reply"
	tests := []struct {
		name, replies string
		want          string // of rcpt; empty: success
		open          bool   // the sender is accepted
	}{
		{"two yes", "250 a\r\n250 b\r\n", "", true},
		{"on several lines", "250-a\r\n250 a\r\n250-b\r\n250 b\r\n", "", true},
		{"no to the second", "250 a\r\n550 5.1.1 b\r\n", "550 5.1.1 b", true},
		{"no to the first", "550 5.1.7 a\r\n503 b\r\n", "550 5.1.7 a", false},
		{"no to the first, on several lines", "450-4.1.8 a\r\n450 4.1.8 b\r\n503 b\r\n", "450 4.1.8 a b", false},
		{"no to the first, and no more", "550 5.1.7 a\r\n", "550 5.1.7 a", false},
		{"another yes to the first", "251 a\r\n250 b\r\n", none, true},
		{"354 to the first", "354 a\r\n250 b\r\n", none, true},
		{"garbage first", "a\r\n250 b\r\n", none, true},
		{"one reply", "250 a\r\n", none, true},
		{"one and a half", "250 a\r\n250 b", none, true},
		{"none", "", none, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, hop := readerPair(t)
			c := &conn{replyReader: w, peer: &peer{cfg: &Config{CommandTimeout: time.Minute}}, pipelining: true}
			if err := c.mail(t.Context(), "a@example.org", &smtp.MailOptions{}); err != nil || !c.open {
				t.Fatalf("%v, open %v", err, c.open)
			}
			sent := make(chan string, 1)
			go func() {
				p := make([]byte, len("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n"))
				io.ReadFull(hop, p)
				sent <- string(p)
				io.WriteString(hop, tt.replies)
				hop.Close()
			}()
			err := c.rcpt(t.Context(), recipient{address: "b@example.com"})
			switch tt.want {
			case "":
				if err != nil {
					t.Error(err)
				}
			case none:
				wantTemporary(t, err)
			default:
				wantRefusal(t, err, tt.want)
			}
			if got := <-sent; got != "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n" {
				t.Errorf("sent %q", got)
			}
			if c.open != tt.open || c.mailPending {
				t.Errorf("open %v, pending %v", c.open, c.mailPending)
			}
		})
	}
}

// Bytes that the hop has sent before a queued command are not a reply to it.
func TestQueueOutOfStep(t *testing.T) {
	w, hop := readerPair(t)
	io.WriteString(hop, "250 ok\r\n250 ok again\r\n")
	if _, err := w.reply(); err != nil {
		t.Fatal(err)
	}
	if err := w.queue("first"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.exchange("second"); !errors.Is(err, errOutOfStep) {
		t.Errorf("got %v", err)
	}
}

func TestWithin(t *testing.T) {
	t.Run("time", func(t *testing.T) {
		w, _ := readerPair(t)
		defer w.within(t.Context(), 20*time.Millisecond).end()
		w.SetDeadline(time.Time{}) // as go-smtp's client does
		wantTimeout(t, w)
	})
	t.Run("deadline of ctx", func(t *testing.T) {
		w, _ := readerPair(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		defer w.within(ctx, time.Hour).end()
		wantTimeout(t, w)
	})
	t.Run("cancelled", func(t *testing.T) {
		w, hop := readerPair(t)
		ctx, cancel := context.WithCancel(t.Context())
		b := w.within(ctx, time.Hour)
		time.AfterFunc(20*time.Millisecond, cancel)
		wantTimeout(t, w)
		b.end()
		io.WriteString(hop, "250 ok\r\n")
		if _, err := w.reply(); err == nil {
			t.Error("the connection is still in use")
		}
	})
}

func wantTimeout(t *testing.T, w *replyReader) {
	t.Helper()
	_, err := w.reply()
	var e net.Error
	if !errors.As(err, &e) || !e.Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
}

// Any input is either an error or a reply that has a code, ends in CRLF, and is bounded.
func FuzzReplyLine(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "250-ok\r\n", "250\r\n", "\r\n", "25\r\n", "250 a\rb\r\n", "999 x\r\n", "250 ok\n", "", "250"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		code, more, ok := parseReplyLine(line)
		if !ok {
			return
		}
		if code < 200 || code > 599 || !strings.HasSuffix(string(line), "\r\n") || strings.Count(string(line), "\r") != 1 {
			t.Errorf("%q is accepted as a reply with code %d", line, code)
		}
		if more != (line[3] == '-') {
			t.Errorf("%q: more is %v", line, more)
		}
	})
}

func TestVerdict(t *testing.T) {
	said := func(code int, enhanced smtp.EnhancedCode, message string) *smtp.SMTPError {
		return &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: message}
	}
	tests := []struct {
		in   *smtp.SMTPError
		want string // empty: no refusal
	}{
		{said(550, smtp.EnhancedCode{5, 1, 1}, "No such user"), "550 5.1.1 No such user"},
		{said(450, smtp.EnhancedCode{4, 2, 0}, "Greylisted"), "450 4.2.0 Greylisted"},
		{said(454, smtp.EnhancedCode{4, 7, 1}, "Relay access denied"), "454 4.7.1 Relay access denied"},
		{said(550, smtp.EnhancedCode{}, "No"), "550 5.0.0 No"},
		{said(550, smtp.EnhancedCode{2, 0, 0}, "No"), "550 5.0.0 No"},
		{said(550, smtp.EnhancedCode{5, -1, 0}, "No"), "550 5.0.0 No"},
		{said(550, smtp.EnhancedCode{5, 1, 4000}, "No"), "550 5.0.0 No"},
		{said(550, smtp.EnhancedCode{5, 1, 1}, "a\x1b[31m\x00\u202eb\xff"), "550 5.1.1 a [31m b"},
		{said(250, smtp.EnhancedCode{2, 0, 0}, "Ok"), ""},
		{said(354, smtp.EnhancedCode{}, "Go ahead"), ""},
		{said(421, smtp.EnhancedCode{4, 7, 0}, "Bye"), ""},
		{said(530, smtp.EnhancedCode{5, 7, 0}, "Authenticate"), ""},
		{said(535, smtp.EnhancedCode{5, 7, 8}, "Bad password"), ""},
	}
	for _, tt := range tests {
		err := classify(tt.in)
		if tt.want == "" {
			wantTemporary(t, err)
			continue
		}
		wantRefusal(t, err, tt.want)
	}
	if broken := errors.New("broken"); classify(broken) != broken || classify(nil) != nil {
		t.Error("other errors are changed")
	}
}

// The enhanced code is in EnhancedCode and in no line of the text, on whichever lines the hop
// sent it.
func TestReplyText(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		code     smtp.EnhancedCode
		text     string
		receipt  string
	}{
		{"one line", "550 5.1.1 No", smtp.EnhancedCode{5, 1, 1}, "No", "5.1.1 No"},
		{"each", "550-5.1.1 Two|550 5.1.1 lines", smtp.EnhancedCode{5, 1, 1}, "Two\nlines", "5.1.1 Two lines"},
		{"the first", "550-5.1.1 Two|550 lines", smtp.EnhancedCode{5, 1, 1}, "Two\nlines", "5.1.1 Two lines"},
		{"the last", "550-Two|550 5.1.1 lines", smtp.EnhancedCode{5, 1, 1}, "Two\nlines", "5.1.1 Two lines"},
		{"the second of three", "550-a|550-5.7.1 b|550 c", smtp.EnhancedCode{5, 7, 1}, "a\nb\nc", "5.7.1 a b c"},
		{"none", "550-Two|550 lines", smtp.EnhancedCode{}, "Two\nlines", "Two lines"},
		{"differing", "550-5.1.1 Two|550 5.7.1 lines", smtp.EnhancedCode{5, 1, 1}, "Two\nlines", "5.1.1 Two lines"},
		{"of another class first", "550-4.1.1 Two|550 5.7.1 lines", smtp.EnhancedCode{5, 7, 1}, "Two\nlines", "5.7.1 Two lines"},
		{"of another class only", "550 2.0.0 Sure", smtp.EnhancedCode{}, "Sure", "Sure"},
		{"twice on a line", "550 5.1.1 5.1.1 No", smtp.EnhancedCode{5, 1, 1}, "No", "5.1.1 No"},
		{"code alone", "550-5.1.1|550 5.1.1 No", smtp.EnhancedCode{5, 1, 1}, "\nNo", "5.1.1 No"},
		{"code alone, at the end", "550-5.1.1 No|550 5.1.1", smtp.EnhancedCode{5, 1, 1}, "No\n", "5.1.1 No"},
		{"more space", "550-  5.1.1   Two|550   lines", smtp.EnhancedCode{5, 1, 1}, "Two\n  lines", "5.1.1 Two lines"},
		{"behind what is not printable", "550 \x005.1.1 No", smtp.EnhancedCode{5, 1, 1}, "No", "5.1.1 No"},
		{"too long a number", "550 5.1.1000 No", smtp.EnhancedCode{}, "No", "No"},
		{"far too long a number", "550 5.99999999999999999999.1 No", smtp.EnhancedCode{}, "No", "No"},
		{"inside the text", "550 host said: 550 5.1.1 No", smtp.EnhancedCode{}, "host said: 550 5.1.1 No", "host said: 550 5.1.1 No"},
		{"an address", "550 5.1.1.1 is listed", smtp.EnhancedCode{}, "5.1.1.1 is listed", "5.1.1.1 is listed"},
		{"a version", "550 3.1.1 is old", smtp.EnhancedCode{}, "3.1.1 is old", "3.1.1 is old"},
		{"a sign", "550 5.-1.1 No", smtp.EnhancedCode{}, "5.-1.1 No", "5.-1.1 No"},
		{"no text", "550", smtp.EnhancedCode{}, "", ""},
		{"250", "250-2.0.0 Ok: queued|250 2.0.0 as 4711", smtp.EnhancedCode{2, 0, 0}, "Ok: queued\nas 4711", "2.0.0 Ok: queued as 4711"},
		{"250 without", "250 Ok: queued as 4711", smtp.EnhancedCode{}, "Ok: queued as 4711", "Ok: queued as 4711"},
		{"250 on the last line", "250-Ok: queued|250 2.6.0 as 4711", smtp.EnhancedCode{2, 6, 0}, "Ok: queued\nas 4711", "2.6.0 Ok: queued as 4711"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, _ := strconv.Atoi(tt.in[:3])
			r := reply{code: code, raw: []byte(strings.ReplaceAll(tt.in, "|", "\r\n") + "\r\n")}
			if e := r.smtpError(); e.Code != code || e.EnhancedCode != tt.code || e.Message != tt.text {
				t.Errorf("%d %v %q", e.Code, e.EnhancedCode, e.Message)
			}
			if got := r.receiptText(); got != tt.receipt {
				t.Errorf("receipt %q", got)
			}
		})
	}
}

// The lines of a refusal have no enhanced code, and its EnhancedCode is one.
func FuzzReplyText(f *testing.F) {
	f.Add(550, "5.1.1 Two\n5.1.1 lines")
	f.Add(250, "2.0.0")
	f.Add(450, " 4.4.4 4.4.4\t5.5.5 x\n\x004.1.1 y")
	f.Add(550, "5.1.1000 x")
	f.Fuzz(func(t *testing.T, code int, text string) {
		if code < 200 || code > 599 || strings.Contains(text, "\r") {
			return
		}
		var raw strings.Builder
		for line := range strings.SplitSeq(text, "\n") {
			fmt.Fprintf(&raw, "%d-%s\r\n", code, line)
		}
		r := reply{code: code, raw: []byte(raw.String())}
		e := refusal(r.smtpError())
		if !fits(e.EnhancedCode, code) {
			t.Errorf("%d with %v", code, e.EnhancedCode)
		}
		for line := range strings.SplitSeq(e.Message, "\n") {
			if startsWithCode.MatchString(line) {
				t.Errorf("the line %q of %q", line, text)
			}
		}
		receipt := r.receiptText()
		if len(receipt) > maxTextLine || strings.ContainsFunc(receipt, unfit) {
			t.Errorf("receipt %q", receipt)
		}
	})
}

var startsWithCode = regexp.MustCompile(`^ *[245]\.[0-9]+\.[0-9]+( |$)`)

func TestTextIsBounded(t *testing.T) {
	got := cleanText(strings.Repeat(strings.Repeat("ü", 1000)+"\r\n", 100))
	lines := strings.Split(got, "\n")
	if len(lines) != maxTextLines || len(lines[0]) > maxTextLine || !utf8.ValidString(got) || strings.Contains(got, "\r") {
		t.Errorf("%d lines, the first has %d bytes", len(lines), len(lines[0]))
	}
	if got := cleanLine("2.0.0 Ok:\r\n queued\tas  1"); got != "2.0.0 Ok: queued as 1" {
		t.Errorf("%q", got)
	}
}
