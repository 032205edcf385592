package smtpd

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/emersion/go-smtp"
)

// unstuff gives a message to an unstuffer in blocks of size octets.
func unstuff(in string, size int) (text, rest string, ended bool) {
	u := unstuffer{}
	for len(in) > 0 && !u.ended {
		n := min(size, len(in))
		t, r := u.next([]byte("?" + in[:n]))
		text, rest, in = text+string(t), string(r), in[n:]
	}
	return text, rest + in, u.ended
}

func TestUnstuff(t *testing.T) {
	for _, test := range []struct{ in, text, rest string }{
		{".\r\n", "", ""},
		{".\r\nQUIT\r\n", "", "QUIT\r\n"},
		{"a\r\n.\r\n", "a\r\n", ""},
		{"a\r\n.\r\n.\r\n", "a\r\n", ".\r\n"},
		{"..\r\n...\r\n.a\r\n.\r\n", ".\r\n..\r\na\r\n", ""},
		{"a.\r\n.b.\r\n\r\n..\r\n.\r\n", "a.\r\nb.\r\n\r\n.\r\n", ""},
		// Only CRLF "." CRLF is the end.
		{"a\n.\n\n.\r\n\r.\r\r\n.\n\r\n.\r\n", "a\n.\n\n.\r\n\r.\r\r\n\n\r\n", ""},
		{"a\r\n.\r\r\n.\r\n", "a\r\n\r\r\n", ""},
		{".\r.\r\n.\r\n", "\r.\r\n", ""},
		{"\r\n.\rx\r\n.\r\n", "\r\n\rx\r\n", ""},
		{"\r\n\x00.\r\n.\r\n", "\r\n\x00.\r\n", ""},
	} {
		for size := 1; size <= len(test.in); size++ {
			text, rest, ended := unstuff(test.in, size)
			if text != test.text || rest != test.rest || !ended {
				t.Errorf("%q in blocks of %d: %q, %q, %v", test.in, size, text, rest, ended)
			}
		}
	}
}

// unstuffSimply is the same octet by octet.
func unstuffSimply(in string) (text, rest string, ended bool) {
	atStart := true
	for i := 0; i < len(in); i++ {
		if atStart && in[i] == '.' {
			if strings.HasPrefix(in[i:], ".\r\n") {
				return text, in[i+3:], true
			}
			atStart = false
			continue
		}
		text += in[i : i+1]
		atStart = in[i] == '\n' && i > 0 && in[i-1] == '\r'
	}
	return text, "", false
}

func FuzzUnstuff(f *testing.F) {
	for _, in := range []string{"a\r\n.\r\n", "..\r\n.\r.\r\n.\n\r\n.\r\nQUIT", "\r\r\n\n.\r\n.", ".\r"} {
		for _, size := range []uint8{1, 2, 3, 200} {
			f.Add(in, size)
		}
	}
	f.Fuzz(func(t *testing.T, in string, size uint8) {
		text, rest, ended := unstuff(in, max(int(size), 1))
		wantText, wantRest, wantEnded := unstuffSimply(in)
		if !wantEnded { // what may be the end is kept back
			text += strings.TrimPrefix(wantText, text)
		}
		if text != wantText || ended && rest != wantRest || ended != wantEnded {
			t.Errorf("%q in blocks of %d: %q, %q, %v; want %q, %q, %v", in, size, text, rest, ended, wantText, wantRest, wantEnded)
		}
	})
}

func BenchmarkUnstuff(b *testing.B) {
	text := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 1<<20/78) + ".\r\n"
	u := unstuffer{}
	block := make([]byte, 1+16<<10)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		u = unstuffer{}
		for rest := text; len(rest) > 0; {
			n := copy(block[1:], rest)
			rest = rest[n:]
			u.next(block[:1+n])
		}
	}
	if !u.ended {
		b.Error("no end")
	}
}

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
