package main

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// The result does not depend on how the text is divided into writes.
func TestEscaper(t *testing.T) {
	for in, want := range map[string]string{
		"Subject: hello\r\n\tmore\r\n": "Subject: hello\r\n\tmore\r\n",
		"\x1b]0;title\x07":             `\x1b]0;title\x07`,
		"\x1b[2J":                      `\x1b[2J`,
		"overwritten\rtext":            `overwritten\x0dtext`,
		"end\r":                        `end\x0d`,
		"\r\r\n":                       "\\x0d\r\n",
		"\u009b31m":                    `\u009b31m`, // CSI in UTF-8
		"\x9b31m":                      `\x9b31m`,   // CSI in 8-bit characters
		"Grüße, 日本":                    "Grüße, 日本",
		"\u202eeht":                    `\u202eeht`,
		"cut \xe6\x97":                 `cut \xe6\x97`,
		"a\x00b\x7f\b":                 `a\x00b\x7f\x08`,
		"\ufffd":                       `\ufffd`,
	} {
		for size := 1; size <= len(in); size++ {
			var out strings.Builder
			e := &escaper{out: &out}
			_, err := io.CopyBuffer(struct{ io.Writer }{e}, struct{ io.Reader }{strings.NewReader(in)}, make([]byte, size))
			if err = errors.Join(err, e.Close()); err != nil || out.String() != want {
				t.Errorf("%q in writes of %d bytes: %q, %v, want %q", in, size, out.String(), err, want)
			}
		}
	}
}
