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
	errReplyForm  = errors.New("the response of the hop is not an SMTP reply")
	errReplyLong  = errors.New("the reply of the hop is too long")
	errOutOfStep  = errors.New("the hop sent a reply without a command")
	errReplyLevel = errors.New("the reply of the hop does not fit the command")
)

// A replyReader sends commands to a hop and reads its replies, each as a whole. While
// the connection is made, go-smtp's client uses it as a net.Conn (EHLO, AUTH); the
// client gets complete, well-formed replies only, one after each Write, and the bounds
// set by within replace the client's. It is used by one goroutine at a time.
type replyReader struct {
	net.Conn          // raw, or TLS over it
	raw      net.Conn // for deadlines and for closing
	in       *bufio.Reader
	out      *bufio.Writer // one block; it also holds the queued commands
	last     []byte        // the storage of the reply read last
	unread   []byte        // the part of it that go-smtp's client has not read
	unsent   bool          // a write failed, so the hop did not get all of what was written
	partial  bool          // reading stopped inside a reply: the rest must not be taken for another one
	overdue  bool          // the whole message has been sent, and nothing of the reply has come in time

	expire   func()         // ends all reading and writing at once
	expiring sync.WaitGroup // for calls of expire
}

func newReplyReader(raw net.Conn) *replyReader {
	r := &replyReader{Conn: raw, raw: raw, in: bufio.NewReaderSize(raw, maxReplyLine)}
	r.out = bufio.NewWriterSize((*outgoing)(r), blockSize)
	r.expire = func() {
		defer r.expiring.Done()
		raw.SetDeadline(time.Unix(1, 0))
	}
	return r
}

// A bound limits the time of all operations until end is called.
type bound struct {
	reader *replyReader
	stop   func() bool
}

// within limits all reading and writing by ctx, and to d from now. If ctx ends before
// the bound does, the connection is closed, even if the operation has just succeeded. It
// stays open only if the reply to a message is overdue.
func (r *replyReader) within(ctx context.Context, d time.Duration) bound {
	until := time.Now().Add(d)
	if t, ok := ctx.Deadline(); ok && t.Before(until) {
		until = t
	}
	r.raw.SetDeadline(until)
	r.expiring.Add(1)
	return bound{r, context.AfterFunc(ctx, r.expire)}
}

// end ends the bound. After it has returned, no deadline is set any more.
func (b bound) end() {
	if b.stop() {
		b.reader.expiring.Done()
		return
	}
	b.reader.expiring.Wait()
	if !b.reader.overdue {
		b.reader.raw.Close()
	}
}

// The deadlines that go-smtp's client sets would replace those of within.
func (r *replyReader) SetDeadline(time.Time) error      { return nil }
func (r *replyReader) SetReadDeadline(time.Time) error  { return nil }
func (r *replyReader) SetWriteDeadline(time.Time) error { return nil }

// Read is for go-smtp's client. It reads from the current reply, or waits for the next.
func (r *replyReader) Read(p []byte) (int, error) {
	if len(r.unread) == 0 {
		next, err := r.reply()
		if err != nil {
			return 0, err
		}
		r.unread = next.raw
	}
	n := copy(p, r.unread)
	r.unread = r.unread[n:]
	return n, nil
}

// Write is for go-smtp's client.
func (r *replyReader) Write(p []byte) (int, error) {
	n, err := r.out.Write(p)
	if err == nil {
		err = r.out.Flush()
	}
	return n, err
}

// queue keeps a command until reply is called, so that several commands are sent
// together (RFC 2920).
func (r *replyReader) queue(line string) error {
	_, err := r.out.WriteString(line + "\r\n")
	return err
}

// exchange sends one command and returns the reply.
func (r *replyReader) exchange(line string) (reply, error) {
	if err := r.queue(line); err != nil {
		return reply{}, err
	}
	return r.reply()
}

// command sends one command. A reply with another code than want is an error.
func (r *replyReader) command(line string, want int) (reply, error) {
	answer, err := r.exchange(line)
	if err == nil && answer.code != want {
		err = fmt.Errorf("%w: %s: %s", errReplyLevel, line, cleanLine(string(answer.raw)))
	}
	return answer, err
}

// outgoing is the replyReader as its buffer out writes to it.
type outgoing replyReader

// Write sends p. Anything that the hop has sent beyond its last reply would be taken
// for the reply to p, so that is an error.
func (o *outgoing) Write(p []byte) (int, error) {
	if len(o.unread) > 0 || o.in.Buffered() > 0 {
		o.unsent = true
		return 0, errOutOfStep
	}
	n, err := o.Conn.Write(p)
	o.unsent = o.unsent || err != nil
	return n, err
}

// reply sends the queued commands, if there are any, and reads one reply. Its form must
// be that of RFC 5321, section 4.2.1, and it must keep to the bounds.
func (r *replyReader) reply() (reply, error) {
	if err := r.out.Flush(); err != nil {
		return reply{}, err
	}
	all := reply{raw: r.last[:0]}
	for range maxReplyLines {
		line, err := r.in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return reply{}, fmt.Errorf("%w: a line of more than %d bytes", errReplyLong, maxReplyLine)
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			r.partial = r.partial || len(line) > 0 || all.code != 0
			return reply{}, err
		}
		code, more, ok := parseReplyLine(line)
		if !ok || all.code != 0 && code != all.code {
			return reply{}, fmt.Errorf("%w: %q", errReplyForm, line[:min(len(line), 80)])
		}
		all.code, all.raw = code, append(all.raw, line...)
		if !more {
			r.last = all.raw
			return all, nil
		}
	}
	return reply{}, fmt.Errorf("%w: more than %d lines", errReplyLong, maxReplyLines)
}

// parseReplyLine parses one line of a reply; more is whether another one follows.
func parseReplyLine(line []byte) (code int, more, ok bool) {
	text, ok := bytes.CutSuffix(line, crlf)
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

// upgrade puts TLS between the replyReader and the raw connection.
func (r *replyReader) upgrade(ctx context.Context, config *tls.Config) error {
	// Clear text after the reply to STARTTLS may have been injected on the way.
	if r.in.Buffered() > 0 {
		return errOutOfStep
	}
	secured := tls.Client(r.raw, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	r.Conn = secured
	r.in.Reset(secured)
	return nil
}
