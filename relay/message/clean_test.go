package message

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// cleanAll cleans in in blocks of n bytes.
func cleanAll(in []byte, n int, reject bool) ([]byte, error) {
	var out []byte
	keep := func(p []byte) error { out = append(out, p...); return nil }
	c := cleaner{reject: reject}
	for len(in) > 0 {
		n := min(n, len(in))
		if err := c.write(in[:n], keep); err != nil {
			return out, err
		}
		in = in[n:]
	}
	return out, c.finish(keep)
}

var cleans = []struct {
	in, out string
	reject  error // with Reject
}{
	{"", "", nil},
	{"a\r\nb\r\n", "a\r\nb\r\n", nil},
	{"a\r\nb", "a\r\nb\r\n", nil},
	{"a\nb\n", "a\r\nb\r\n", ErrBareNewline},
	{"a\n\nb\r\n", "a\r\n\r\nb\r\n", ErrBareNewline},
	{"a\rb\r\n", "a b\r\n", ErrBareNewline},
	{"a\r\rb\r\n", "a  b\r\n", ErrBareNewline},
	{"\rb\r\n", " b\r\n", ErrBareNewline},
	{"a\r\r\nb\r\n", "a\r\nb\r\n", ErrBareNewline},
	{"a\r\r\r\n\r\r\nb\r\n", "a\r\n\r\nb\r\n", ErrBareNewline},
	{"a\r", "a\r\n", ErrBareNewline},
	{"\r", "\r\n", ErrBareNewline},
	{"\n", "\r\n", ErrBareNewline},
	// SMTP smuggling: none of these may look like an end of data to the next hop.
	{"a\n.\nMAIL FROM:<x>\r\n", "a\r\n.\r\nMAIL FROM:<x>\r\n", ErrBareNewline},
	{"a\n.\r\nb\r\n", "a\r\n.\r\nb\r\n", ErrBareNewline},
	{"a\r.\rb\r\n", "a . b\r\n", ErrBareNewline},
	{"a\r\n.\nb\r\n", "a\r\n.\r\nb\r\n", ErrBareNewline},
	{"a\r\n.\rb\r\n", "a\r\n. b\r\n", ErrBareNewline},
	{"a\n.\r\r\nb\r\n", "a\r\n.\r\nb\r\n", ErrBareNewline},
	{"\xe4\xff\r\n", "\xe4\xff\r\n", nil},
}

func TestClean(t *testing.T) {
	for _, c := range cleans {
		for n := 1; n <= len(c.in)+1; n++ {
			out, err := cleanAll([]byte(c.in), n, false)
			if err != nil || string(out) != c.out {
				t.Errorf("%q in blocks of %d: %q, %v; want %q", c.in, n, out, err, c.out)
			}
			out, err = cleanAll([]byte(c.in), n, true)
			if !errors.Is(err, c.reject) {
				t.Errorf("reject %q in blocks of %d: %v, want %v", c.in, n, err, c.reject)
			}
			if err == nil && string(out) != c.out {
				t.Errorf("reject %q in blocks of %d: %q, want %q", c.in, n, out, c.out)
			}
		}
	}
}

func TestCleanRefuses(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct {
		name, in string
		err      error
	}{
		{"NUL", "a\r\nb\x00c\r\n", ErrNUL},
		{"longest line", long + "\r\n", nil},
		{"longest line without end", long, nil},
		{"long line", long + "x\r\n", ErrLongLine},
		{"long line without end", long + "x", ErrLongLine},
		{"long line with bare LF", "a\r\n" + long + "x\n", ErrLongLine},
		{"CRs without end", strings.Repeat("\r", maxLine+3), ErrLongLine},
		{"CRs and text", strings.Repeat("\r", maxLine+1) + "x", ErrLongLine},
	} {
		for _, n := range []int{1 << 30, 40000, 17} {
			if _, err := cleanAll([]byte(c.in), n, false); !errors.Is(err, c.err) {
				t.Errorf("%s in blocks of %d: %v, want %v", c.name, n, err, c.err)
			}
		}
	}
}

// The result has no bare CR, bare LF or NUL, and does not depend on the size of the blocks.
func FuzzClean(f *testing.F) {
	for _, c := range cleans {
		f.Add([]byte(c.in), uint8(1), false)
		f.Add([]byte(c.in), uint8(3), true)
	}
	f.Add([]byte("a\x00b"), uint8(2), false)
	f.Fuzz(func(t *testing.T, in []byte, n uint8, reject bool) {
		whole, err := cleanAll(in, len(in)+1, reject)
		blocks, berr := cleanAll(in, int(n)+1, reject)
		if (err == nil) != (berr == nil) {
			t.Fatalf("%q: %v in one block, %v in blocks of %d", in, err, berr, int(n)+1)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(whole, blocks) {
			t.Fatalf("%q: %q in one block, %q in blocks", in, whole, blocks)
		}
		rest := bytes.ReplaceAll(whole, crlf, nil)
		if bytes.ContainsAny(rest, "\r\n\x00") {
			t.Fatalf("%q became %q", in, whole)
		}
		if len(whole) > 0 && !bytes.HasSuffix(whole, crlf) {
			t.Fatalf("%q has no end: %q", in, whole)
		}
		again, err := cleanAll(whole, len(whole)+1, true)
		if err != nil || !bytes.Equal(again, whole) {
			t.Fatalf("%q: clean bytes are refused: %v", whole, err)
		}
	})
}
