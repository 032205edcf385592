package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"golang.org/x/term"

	"postern/internal/text"
)

// printSafely calls print with out. If out is a terminal, characters that could control it are
// escaped: text of a client could otherwise change what the terminal shows, its title or its
// answers to the program that reads from it.
func printSafely(out io.Writer, print func(io.Writer) error) error {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return print(out)
	}
	e := &escaper{out: out}
	return errors.Join(print(e), e.Close())
}

// An escaper writes text with every unprintable character as \x1b or \u202e, and with every byte
// that is not UTF-8 as \x9b, which controls an 8-bit terminal. Tabs, line feeds and carriage
// returns before a line feed stay as they are.
type escaper struct {
	out  io.Writer
	rest []byte // the incomplete character, or the carriage return, at the end of the last Write
}

// Write implements io.Writer.
func (e *escaper) Write(p []byte) (int, error) { return len(p), e.write(p, false) }

// Close writes what is left.
func (e *escaper) Close() error { return e.write(nil, true) }

func (e *escaper) write(p []byte, last bool) error {
	in := append(e.rest, p...)
	var safe []byte
	for len(in) > 0 && (last || utf8.FullRune(in) && !(len(in) == 1 && in[0] == '\r')) {
		r, n := utf8.DecodeRune(in)
		switch {
		case r == '\n' || r == '\t' || r == '\r' && n < len(in) && in[n] == '\n':
			safe = append(safe, in[:n]...)
		case r == utf8.RuneError && n == 1 || r < utf8.RuneSelf && text.Unprintable(r):
			safe = fmt.Appendf(safe, `\x%02x`, in[0])
		case text.Unprintable(r):
			safe = fmt.Appendf(safe, `\u%04x`, r)
		default:
			safe = append(safe, in[:n]...)
		}
		in = in[n:]
	}
	e.rest = append([]byte(nil), in...)
	_, err := e.out.Write(safe)
	return err
}
