package message

import (
	"bytes"
	"encoding/binary"
)

// maxLine bounds a line without its CRLF, in bytes. RFC 5321, section 4.5.3.1.6, allows 998
// bytes; some programs write lines of 200 KB, and Postfix accepts them.
const (
	maxLine   = 1 << 20
	maxWithCR = maxLine + 1
)

var crlf = []byte("\r\n")

// A cleaner turns a stream of bytes into one in which CR and LF occur only together and NUL
// does not occur. The result does not depend on how the stream is cut into blocks.
//
// Several CRs directly before an LF are one line end with it, as in Postfix: programs that
// turn LF into CRLF twice write them. Any other CR becomes a space.
type cleaner struct {
	reject bool // return ErrBareNewline instead of changing anything
	crs    int  // CRs at the end of the last block, not passed on yet
	line   int  // bytes of the unfinished line passed on so far
}

// write cleans a block and passes the result to keep, in pieces that are parts of p and may
// be empty.
func (c *cleaner) write(p []byte, keep func([]byte) error) error {
	if bytes.IndexByte(p, 0) >= 0 {
		return ErrNUL
	}
	if c.crs > 0 {
		var err error
		if p, err = c.resume(p, keep); err != nil {
			return err
		}
	}
	start, i := 0, c.wholeLines(p) // p[start:i] is clean and not passed on yet
	for {
		n := bytes.IndexByte(p[i:], '\n')
		if n < 0 {
			break
		}
		line := p[i : i+n]
		if cr := bytes.IndexByte(line, '\r'); cr < 0 || cr != n-1 {
			if err := keep(p[start:i]); err != nil {
				return err
			}
			if err := c.fixLine(line, keep); err != nil {
				return err
			}
			start = i + n + 1
		} else if c.line+n > maxWithCR {
			return ErrLongLine
		}
		c.line = 0
		i += n + 1
	}
	if err := keep(p[start:i]); err != nil || i == len(p) {
		return err
	}
	return c.partial(p[i:], keep)
}

// wholeLines returns the length of the lines at the start of p that are clean, for most
// messages all of p. It may be 0 even if there are such lines.
func (c *cleaner) wholeLines(p []byte) (end int) {
	lines, before := 0, c.line
	for {
		n := bytes.IndexByte(p[end:], '\n')
		if n < 1 || p[end+n-1] != '\r' || before+n > maxWithCR {
			break
		}
		lines++
		before = 0
		end += n + 1
	}
	if bytes.Count(p[:end], crlf[:1]) != lines {
		return 0
	}
	c.line = before
	return end
}

// resume processes the CRs at the end of the last block, now that the byte after
// them is known.
func (c *cleaner) resume(p []byte, keep func([]byte) error) ([]byte, error) {
	rest := bytes.TrimLeft(p, "\r")
	c.crs += len(p) - len(rest)
	switch {
	case c.line+c.crs > maxWithCR:
		return nil, ErrLongLine
	case c.reject && (c.crs > 1 || len(rest) > 0 && rest[0] != '\n'):
		return nil, ErrBareNewline
	case len(rest) == 0:
		return nil, nil
	case rest[0] == '\n':
		c.crs, c.line = 0, 0
		return rest[1:], keep(crlf)
	}
	err := c.text(bytes.Repeat([]byte{'\r'}, c.crs), keep)
	c.crs = 0
	return rest, err
}

// fixLine passes on a line, given without its LF, that has no CR at its end or one
// elsewhere.
func (c *cleaner) fixLine(line []byte, keep func([]byte) error) error {
	if c.reject {
		return ErrBareNewline
	}
	if c.line+len(line) > maxWithCR {
		return ErrLongLine
	}
	if err := c.text(bytes.TrimRight(line, "\r"), keep); err != nil {
		return err
	}
	return keep(crlf)
}

// partial passes on the beginning of a line whose end has not arrived.
func (c *cleaner) partial(p []byte, keep func([]byte) error) error {
	text := bytes.TrimRight(p, "\r")
	c.crs += len(p) - len(text)
	if c.reject && c.crs > 1 {
		return ErrBareNewline
	}
	if c.line+len(text)+c.crs > maxWithCR {
		return ErrLongLine
	}
	return c.text(text, keep)
}

// text passes on a part of a line, with a space for every CR in it.
func (c *cleaner) text(p []byte, keep func([]byte) error) error {
	if c.line += len(p); c.line > maxLine {
		return ErrLongLine
	}
	for {
		i := bytes.IndexByte(p, '\r')
		if i < 0 {
			return keep(p)
		}
		if c.reject {
			return ErrBareNewline
		}
		if err := keep(p[:i]); err != nil {
			return err
		}
		if err := keep([]byte{' '}); err != nil {
			return err
		}
		p = p[i+1:]
	}
}

// finish ends the stream, and adds a CRLF if there is none at its end. A CR there becomes a
// CRLF.
func (c *cleaner) finish(keep func([]byte) error) error {
	if c.line == 0 && c.crs == 0 {
		return nil
	}
	if c.reject && c.crs > 0 {
		return ErrBareNewline
	}
	c.line, c.crs = 0, 0
	return keep(crlf)
}

// lastHigh returns the index of the last byte beyond US-ASCII, or -1.
func lastHigh(p []byte) int {
	for len(p) >= 8 && binary.NativeEndian.Uint64(p[len(p)-8:])&0x8080808080808080 == 0 {
		p = p[:len(p)-8]
	}
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] >= 0x80 {
			return i
		}
	}
	return -1
}
