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
	"strings"
	"sync"
	"time"
)

// What one reply may be. RFC 5321 4.5.3.1.5 allows 512 bytes a line; real
// servers put longer URLs there. The line limit is below that of go-smtp's
// client (2000), which has no limit for the number of lines.
const (
	maxReplyLine  = 1900
	maxReplyLines = 64
)

// promise is what the client is told when the hop has not been asked yet.
var promise = []byte("250 Ok\r\n")

// A malformed reply ends the connection: what comes after it cannot be told
// apart from what belongs to it.
var (
	errReplyForm  = errors.New("the hop's answer is not an SMTP reply")
	errReplyLong  = errors.New("the hop's answer is too long")
	errOutOfStep  = errors.New("the hop answered more than it was asked")
	errReplyLevel = errors.New("the hop's answer does not fit the question")
)

// A wire is the connection beneath go-smtp's client. It hands the client
// whole, well-formed replies only, one for each thing written, and obeys the
// bounds set by within instead of the client's own.
type wire struct {
	net.Conn          // raw, or TLS over it
	raw      net.Conn // for deadlines and for hanging up
	in       *bufio.Reader
	out      *bufio.Writer // a block; what is in it goes out with the next command
	last     []byte        // the reply read last
	rest     []byte        // what the client has not read of it
	cut      bool          // a Write failed, so the hop did not get all of it
	torn     bool          // a reply broke off in the middle: its rest must not be taken for one
	hold     bool          // the next command is to wait in out for the one after it
	ahead    bool          // the client was told 250 to that one, and the hop has not said so

	expire   func()         // makes all reading and writing end at once
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

// A bound holds until its end.
type bound struct {
	wire *wire
	stop func() bool
}

// within bounds all reading and writing until the end of the bound: by ctx,
// and to d from now. A ctx that ends meanwhile ends the connection, even if
// the operation just came through.
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

// settle is end, but for ending the connection: that is left to the caller, who
// is told whether ctx has ended. When it returns, nobody sets deadlines any more.
func (b bound) settle() (ended bool) {
	if b.stop() {
		b.wire.expiring.Done()
		return false
	}
	b.wire.expiring.Wait()
	return true
}

// The deadlines of go-smtp's client would lift those of within.
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// Read reads from the current reply, or waits for the next.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.rest) == 0 {
		r, err := w.answer()
		if err != nil {
			return 0, err
		}
		w.rest = r.raw
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// answer is the reply that the client is to hear next. It does not hear the 250
// that it was promised. If that turns out to be a no, it hears the no in place
// of the reply to its next command, which is then still to come, and the wire
// stays ahead.
func (w *wire) answer() (reply, error) {
	r, err := w.reply()
	if err != nil || !w.ahead || r.code >= 400 {
		return r, err
	}
	if r.code != 250 {
		return reply{}, fmt.Errorf("%w: %s", errReplyLevel, cleanLine(string(r.raw)))
	}
	w.ahead = false
	return w.reply()
}

// Write sends what is in out, and p behind it. On hold it keeps p there, and
// promises the client a 250.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	switch {
	case w.hold:
		w.hold, w.ahead, w.rest = false, true, promise
	case err == nil:
		err = w.out.Flush()
	}
	return n, err
}

// outgoing is the wire as out writes to it.
type outgoing wire

// Write sends p. Whatever the hop has said beyond its last reply would be
// taken for the answer to p, so the connection is given up.
func (w *outgoing) Write(p []byte) (int, error) {
	if len(w.rest) > 0 || w.in.Buffered() > 0 {
		w.cut = true
		return 0, errOutOfStep
	}
	n, err := w.Conn.Write(p)
	w.cut = w.cut || err != nil
	return n, err
}

// A reply is one whole answer of the hop. It is there until the next is read.
type reply struct {
	code int
	raw  []byte // all lines, with their CRLF
}

// lines are the texts behind the code.
func (r reply) lines() []string {
	var all []string
	for line := range strings.Lines(string(r.raw)) {
		line = strings.TrimRight(line, "\r\n")
		all = append(all, line[min(4, len(line)):])
	}
	return all
}

// reply reads one reply, strictly. RFC 5321 4.2.1.
func (w *wire) reply() (reply, error) {
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
			w.torn = w.torn || len(line) > 0 || r.code != 0
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

// replyLine takes a line apart; more says that it is not the last.
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
	// RFC 5321 4.2: the first digit is 2 to 5; 1yz is not used in SMTP.
	if code < 200 || code > 599 {
		return 0, false, false
	}
	if len(text) == 3 {
		return code, false, true
	}
	return code, text[3] == '-', text[3] == '-' || text[3] == ' '
}

// command sends one line on the bare connection, for which go-smtp's client
// has no method, and wants the given code back. Between the client's own
// commands nothing is buffered in it, so both may use the wire in turn.
func (w *wire) command(line string, want int) (reply, error) {
	if _, err := w.Write([]byte(line + "\r\n")); err != nil {
		return reply{}, err
	}
	r, err := w.reply()
	if err == nil && r.code != want {
		err = fmt.Errorf("%w: %s: %s", errReplyLevel, line, cleanLine(string(r.raw)))
	}
	return r, err
}

// upgrade puts TLS between the wire and the raw connection.
func (w *wire) upgrade(ctx context.Context, config *tls.Config) error {
	// What came in clear text behind the answer to STARTTLS may be anybody's.
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
