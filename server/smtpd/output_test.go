package smtpd

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/emersion/go-smtp"
)

func TestReplyLines(t *testing.T) {
	long := strings.Repeat("\u00e4", 400)
	for _, test := range []struct {
		reply *Reply
		want  string
	}{
		{NewReply(250, smtp.EnhancedCode{2, 1, 5}, "Ok"), "250 2.1.5 Ok\r\n"},
		// RFC 2034, section 4: the code is on each line.
		{&Reply{Code: 550, Enhanced: smtp.EnhancedCode{5, 1, 1}, Lines: []string{"one", "two", ""}}, "550-5.1.1 one\r\n550-5.1.1 two\r\n550 5.1.1 \r\n"},
		{&Reply{Code: 250, Enhanced: smtp.NoEnhancedCode, Lines: []string{"a", "b"}}, "250-a\r\n250 b\r\n"},
		{&Reply{Code: 451, Lines: []string{"later"}}, "451 4.0.0 later\r\n"},
		{NewReply(334, smtp.EnhancedCode{2, 0, 0}, ""), "334 \r\n"},
		{NewReply(550, smtp.EnhancedCode{5, 0, 0}, "a\r\n250 b\x00\x1b[2J\xff\u0085"), "550 5.0.0 a??250 b??[2J??\r\n"},
		{NewReply(550, smtp.EnhancedCode{5, 7, 123}, long), "550 5.7.123 " + strings.Repeat("\u00e4", 249) + "\r\n"},
	} {
		got := string(test.reply.appendTo(nil))
		if got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
		for line := range strings.SplitSeq(got, "\r\n") {
			if len(line) > maxReplyLine || !utf8.ValidString(line) {
				t.Errorf("a line of %d octets: %q", len(line), line)
			}
		}
	}
}
