package relay

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/emersion/go-smtp"
)

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
