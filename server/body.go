package server

import (
	"bytes"
	"io"
	"sync"

	"github.com/emersion/go-smtp"
)

// finalDot is what go-smtp looks for behind a message that we have taken in.
const finalDot = ".\r\n"

// A block is what a message is read into: a TLS record at once, behind the byte
// of room that an unstuffer needs.
type block [1 + 16<<10]byte

var blocks = sync.Pool{New: func() any { return new(block) }}

// readMessage copies the message behind DATA to out, without the dots that were
// stuffed, until its final dot. It takes the place of go-smtp's reader, which
// looks at each byte three times; 354 goes out with the first read.
//
// An error of out, or of a message of more than limit bytes, which is
// smtp.ErrDataTooLarge, comes when the rest has been read away: the client has
// to hear it in reply to its message. Who sends more than twice the limit is not
// listened to.
func (w *wire) readMessage(out io.Writer, limit int64) error {
	defer func() { w.dot = finalDot }()
	var refusal error
	u := unstuffer{}
	for size := int64(0); !u.ended; {
		b, n, err := w.nextBlock()
		if err != nil {
			return err
		}
		text, rest := u.block(b[:1+n])
		size += int64(len(text))
		if refusal == nil && size > limit {
			refusal = smtp.ErrDataTooLarge
		}
		if refusal == nil {
			_, refusal = out.Write(text)
		}
		switch {
		case u.ended:
			w.in = append(bytes.Clone(rest), w.in...) // commands that the client has pipelined
		case size > 2*limit:
			w.hangUp(tooMuch)
			u.ended = true
		case n < len(b)/2:
			quickAck(w.Conn) // the rest may wait for it
		}
		blocks.Put(b)
	}
	return refusal
}

// nextBlock returns a block with what has come behind DATA, or comes next: n bytes.
// The client is waited for with one byte of room: with a block for each of a
// crowd on bad lines, most of the memory would be waiting.
func (w *wire) nextBlock() (b *block, n int, err error) {
	if len(w.in) > 0 {
		b = blocks.Get().(*block)
		n = copy(b[1:], w.in)
		w.consume(n)
		return b, n, nil
	}
	if _, err = w.fillMessage(w.first[:]); err != nil {
		return nil, 0, err
	}
	b = blocks.Get().(*block)
	b[1] = w.first[0]
	return b, 1 + w.receiveSoon(b[2:]), nil
}

// An unstuffer takes the dots off that the client has put before those at the
// beginning of a line, and finds the final one (RFC 5321, section 4.5.2). Only
// CRLF "." CRLF ends a message. What it makes of a message does not depend on
// how it was cut into blocks.
type unstuffer struct {
	state unstuffing
	ended bool
}

type unstuffing uint8

const (
	lineStart unstuffing = iota // behind CRLF, or at the very beginning
	dot                         // behind a dot at the start of a line, which is taken off
	dotCR                       // behind a CR after that
	inLine
	lineCR // behind a CR in a line
)

// block takes the dots off the block b[1:], in place, and returns its text and,
// if the end of the message is there, what stands behind it. b[0] is room for the
// CR that the block before has kept back.
func (u *unstuffer) block(b []byte) (text, rest []byte) {
	from, to := 1, 1 // b[from:] is to be looked at, b[:to] is text
	if u.state == dotCR && len(b) > 1 && b[1] != '\n' {
		to = 0
	}
	start := to
	for from < len(b) && !u.ended {
		c := b[from]
		switch {
		case u.state == lineStart && c == '.':
			u.state = dot
			from++
		case u.state == dot && c == '\r':
			u.state = dotCR
			from++
		case u.state == dotCR && c == '\n':
			u.ended = true
			from++
		default:
			if u.state == dotCR { // no end after all
				b[to] = '\r'
				to++
			}
			n := u.line(b[from:])
			if to != from {
				copy(b[to:], b[from:from+n])
			}
			from, to = from+n, to+n
		}
	}
	return b[start:to], b[from:]
}

// line returns how much of p, which begins in a line, comes before the next dot
// at the start of one.
func (u *unstuffer) line(p []byte) int {
	if u.state == lineCR && p[0] == '\n' {
		u.state = lineStart
		return 1
	}
	if i := bytes.Index(p, []byte("\r\n.")); i >= 0 {
		u.state = lineStart
		return i + 2
	}
	switch {
	case bytes.HasSuffix(p, []byte("\r\n")):
		u.state = lineStart
	case p[len(p)-1] == '\r':
		u.state = lineCR
	default:
		u.state = inLine
	}
	return len(p)
}
