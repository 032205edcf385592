package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// The bounds of one reply. RFC 5321, section 4.5.3.1.5, allows 512 octets a line;
// real servers put longer URLs there. The line limit is below that of go-smtp's
// client (2000), which does not limit the number of lines.
const (
	maxReplyLine  = 1900
	maxReplyLines = 64
)

// After a malformed reply the connection is closed, as there is no way to know where
// the next reply begins.
var (
	errReplyForm  = errors.New("the hop's answer is not an SMTP reply")
	errReplyLong  = errors.New("the hop's answer is too long")
	errOutOfStep  = errors.New("the hop answered more than it was asked")
	errReplyLevel = errors.New("the hop's answer does not fit the question")
)

// A wire is the connection to a hop, with commands as lines and replies as a whole.
// While the connection is made, go-smtp's client uses it as a net.Conn (EHLO, AUTH);
// it gets complete, well-formed replies only, one after each Write, and the bounds set
// by within replace the client's. A wire is used by one goroutine at a time.
type wire struct {
	net.Conn          // raw, or TLS over it
	raw      net.Conn // for deadlines and for closing
	in       *bufio.Reader
	out      *bufio.Writer // one block; it also holds the queued commands
	last     []byte        // the storage of the reply read last
	unread   []byte        // the part of it that go-smtp's client has not read
	unsent   bool          // a write failed, so the hop did not get all of what was written
	partial  bool          // reading stopped inside a reply: the rest must not be taken for another one

	expire   func()         // ends all reading and writing at once
	expiring sync.WaitGroup // for calls of expire
}

func newWire(raw net.Conn) *wire {
	w := &wire{Conn: raw, raw: raw, in: bufio.NewReaderSize(raw, maxReplyLine)}
	w.out = bufio.NewWriterSize((*outgoing)(w), blockSize)
	w.expire = func() {
		defer w.expiring.Done()
		raw.SetDeadline(time.Unix(1, 0))
	}
	return w
}

// A bound limits the time of all operations until its end is called.
type bound struct {
	wire *wire
	stop func() bool
}

// within limits all reading and writing by ctx, and to d from now. If ctx ends before
// the bound does, the connection is closed, even if the operation has just succeeded.
func (w *wire) within(ctx context.Context, d time.Duration) bound {
	until := time.Now().Add(d)
	if t, ok := ctx.Deadline(); ok && t.Before(until) {
		until = t
	}
	w.raw.SetDeadline(until)
	w.expiring.Add(1)
	return bound{w, context.AfterFunc(ctx, w.expire)}
}

func (b bound) end() {
	if b.settle() {
		b.wire.raw.Close()
	}
}

// settle is end, except that it leaves it to the caller to close the connection, and
// reports whether ctx has ended. After it has returned, no deadline is set any more.
func (b bound) settle() (ended bool) {
	if b.stop() {
		b.wire.expiring.Done()
		return false
	}
	b.wire.expiring.Wait()
	return true
}

// The deadlines that go-smtp's client sets would replace those of within.
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// Read is for go-smtp's client. It reads from the current reply, or waits for the next.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.unread) == 0 {
		r, err := w.reply()
		if err != nil {
			return 0, err
		}
		w.unread = r.raw
	}
	n := copy(p, w.unread)
	w.unread = w.unread[n:]
	return n, nil
}

// Write is for go-smtp's client.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	if err == nil {
		err = w.out.Flush()
	}
	return n, err
}

// queue keeps a command until reply is called, so that several commands are sent
// together (RFC 2920).
func (w *wire) queue(line string) error {
	_, err := w.out.WriteString(line + "\r\n")
	return err
}

// exchange sends one command and returns the reply.
func (w *wire) exchange(line string) (reply, error) {
	if err := w.queue(line); err != nil {
		return reply{}, err
	}
	return w.reply()
}

// command sends one command. A reply with another code than want is an error.
func (w *wire) command(line string, want int) (reply, error) {
	r, err := w.exchange(line)
	if err == nil && r.code != want {
		err = fmt.Errorf("%w: %s: %s", errReplyLevel, line, cleanLine(string(r.raw)))
	}
	return r, err
}

// outgoing is the wire as its buffer out writes to it.
type outgoing wire

// Write sends p. Anything that the hop has sent beyond its last reply would be taken
// for the reply to p, so that is an error.
func (w *outgoing) Write(p []byte) (int, error) {
	if len(w.unread) > 0 || w.in.Buffered() > 0 {
		w.unsent = true
		return 0, errOutOfStep
	}
	n, err := w.Conn.Write(p)
	w.unsent = w.unsent || err != nil
	return n, err
}

// reply sends the queued commands, if there are any, and reads one reply. Its form must
// be that of RFC 5321, section 4.2.1, and it must keep to the bounds.
func (w *wire) reply() (reply, error) {
	if err := w.out.Flush(); err != nil {
		return reply{}, err
	}
	r := reply{raw: w.last[:0]}
	for range maxReplyLines {
		line, err := w.in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return reply{}, fmt.Errorf("%w: a line of more than %d bytes", errReplyLong, maxReplyLine)
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			w.partial = w.partial || len(line) > 0 || r.code != 0
			return reply{}, err
		}
		code, more, ok := replyLine(line)
		if !ok || r.code != 0 && code != r.code {
			return reply{}, fmt.Errorf("%w: %q", errReplyForm, line[:min(len(line), 80)])
		}
		r.code, r.raw = code, append(r.raw, line...)
		if !more {
			w.last = r.raw
			return r, nil
		}
	}
	return reply{}, fmt.Errorf("%w: more than %d lines", errReplyLong, maxReplyLines)
}

// replyLine parses one line of a reply; more is whether another one follows.
func replyLine(line []byte) (code int, more, ok bool) {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || len(text) < 3 || bytes.IndexByte(text, '\r') >= 0 {
		return 0, false, false
	}
	for _, digit := range text[:3] {
		if digit < '0' || digit > '9' {
			return 0, false, false
		}
		code = code*10 + int(digit-'0')
	}
	// RFC 5321, section 4.2: the first digit is 2 to 5; 1yz is not used in SMTP.
	if code < 200 || code > 599 {
		return 0, false, false
	}
	if len(text) == 3 {
		return code, false, true
	}
	return code, text[3] == '-', text[3] == '-' || text[3] == ' '
}

// upgrade puts TLS between the wire and the raw connection.
func (w *wire) upgrade(ctx context.Context, config *tls.Config) error {
	// Anyone on the path may have written clear text after the reply to STARTTLS.
	if w.in.Buffered() > 0 {
		return errOutOfStep
	}
	secured := tls.Client(w.raw, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	w.Conn = secured
	w.in.Reset(secured)
	return nil
}
