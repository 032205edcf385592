package smtpd

import (
	"bytes"
	"sync"
	"time"
)

// smallInput is what a connection reads into while it waits. It holds most
// commands, and is all that an idle client costs here.
const smallInput = 512

// A block is what is read into when more than smallInput octets have come: a TLS
// record at once. Byte 0 is room for an unstuffer.
type block [1 + 16<<10]byte

var blocks = sync.Pool{New: func() any { return new(block) }}

// soon is how long to wait for more of what has partly come. Under TLS the rest of
// a record is there already.
const soon = 20 * time.Millisecond

// An input holds what has been received and not been used yet. Only the
// goroutine of the connection uses it.
type input struct {
	small      [1 + smallInput]byte
	block      *block // nil unless the unread octets lie in it
	start, end int    // the unread octets, in block or small; there is always a byte before them
	partial    []byte // the beginning of a line, of which the rest has not come
}

func (in *input) buffer() []byte {
	if in.block != nil {
		return in.block[:]
	}
	return in.small[:]
}

// nextLine returns the next line, its LF included, if it has come; otherwise it
// keeps what has come of it in partial. The line is valid until the next call. No
// second copy of it is left, so that a caller that clears it has cleared a password.
func (in *input) nextLine() (line []byte, ok bool) {
	unread := in.buffer()[in.start:in.end]
	i := bytes.IndexByte(unread, '\n')
	if i < 0 {
		in.partial = append(in.partial, unread...)
		clear(unread)
		in.drop()
		return nil, false
	}
	in.start += i + 1
	line = unread[:i+1]
	if len(in.partial) > 0 {
		line = append(in.partial, line...)
		in.partial = nil
		clear(unread[:i+1])
	}
	return line, true
}

// use returns up to limit unread octets and counts them as used. They are valid
// until the next call.
func (in *input) use(limit int64) []byte {
	p := in.buffer()[in.start:in.end]
	p = p[:min(int64(len(p)), limit)]
	in.start += len(p)
	return p
}

// drop discards what is unread, and returns the block to the pool.
func (in *input) drop() {
	in.start, in.end = 1, 1
	if in.block != nil {
		blocks.Put(in.block)
		in.block = nil
	}
}

// fill waits for the client, when everything before has been used. Waiting takes
// place with the small buffer alone: with a block for each of many clients on slow
// networks, most of the memory would be idle.
func (in *input) fill(t *transport) error {
	in.drop()
	n, err := t.receive(in.small[1:])
	if err != nil {
		return err
	}
	in.end += n
	if n < smallInput {
		return nil
	}
	in.block = blocks.Get().(*block)
	copy(in.block[1:], in.small[1:])
	clear(in.small[1:])
	_ = t.Conn.SetReadDeadline(time.Now().Add(soon))
	n, _ = t.receive(in.block[in.end:]) // the next receive returns an error, too; a deadline that has passed is none
	in.end += n
	return nil
}

// An unstuffer takes away the dots that the client has put before those at the
// beginning of a line, and finds the final one (RFC 5321, section 4.5.2). Only
// CRLF "." CRLF ends a message. Its result does not depend on how the message was
// cut into blocks.
type unstuffer struct {
	state unstuffState
	ended bool // the final dot has been found
}

type unstuffState uint8

const (
	atLineStart unstuffState = iota // after CRLF, or at the very beginning
	afterDot                        // after a dot at the start of a line, which is taken away
	afterDotCR                      // after a CR after that
	inLine
	afterCR // after a CR in a line
)

// next takes the dots away from b[1:], in place, and returns its text and, if the
// end of the message has been found, what comes after it. b[0] is room for the CR
// that was kept back from the block before.
func (u *unstuffer) next(b []byte) (text, rest []byte) {
	from, to := 1, 1 // b[from:] is to be examined, b[:to] is text
	if u.state == afterDotCR && len(b) > 1 && b[1] != '\n' {
		to = 0
	}
	start := to
	for from < len(b) && !u.ended {
		c := b[from]
		switch {
		case u.state == atLineStart && c == '.':
			u.state = afterDot
			from++
		case u.state == afterDot && c == '\r':
			u.state = afterDotCR
			from++
		case u.state == afterDotCR && c == '\n':
			u.ended = true
			from++
		default:
			if u.state == afterDotCR { // it was not the end
				b[to] = '\r'
				to++
			}
			n := u.scan(b[from:])
			if to != from {
				copy(b[to:], b[from:from+n])
			}
			from, to = from+n, to+n
		}
	}
	return b[start:to], b[from:]
}

// scan returns how much of p, which begins within a line, comes before the next
// dot at the start of a line.
func (u *unstuffer) scan(p []byte) int {
	if u.state == afterCR && p[0] == '\n' {
		u.state = atLineStart
		return 1
	}
	if i := bytes.Index(p, []byte("\r\n.")); i >= 0 {
		u.state = atLineStart
		return i + 2
	}
	switch {
	case bytes.HasSuffix(p, []byte("\r\n")):
		u.state = atLineStart
	case p[len(p)-1] == '\r':
		u.state = afterCR
	default:
		u.state = inLine
	}
	return len(p)
}
