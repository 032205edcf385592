package relay

import (
	"errors"
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
		err := verdict(tt.in)
		if tt.want == "" {
			wantTemporary(t, err)
			continue
		}
		wantRefusal(t, err, tt.want)
	}
	if broken := errors.New("broken"); verdict(broken) != broken || verdict(nil) != nil {
		t.Error("other errors are changed")
	}
}

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
