package smtpd

import (
	"strings"
	"testing"
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
