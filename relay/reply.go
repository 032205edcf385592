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
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"postern/internal/text"
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

// errUncertain means that the hop may or may not have the message. Whether to send it
// again is the client's decision, as it could arrive twice.
var errUncertain = errors.New("the hop did not confirm the message")

// IsUncertain reports that err occurred after the end of the data had been sent: the
// hop may or may not have the message.
func IsUncertain(err error) bool { return errors.Is(err, errUncertain) }

// How much of a hop's text is passed on: lines, and octets of each.
const (
	maxTextLines = 8
	maxTextLine  = 400
)

// A reply is one complete reply of a hop. raw is valid until the next one is read.
type reply struct {
	code int
	raw  []byte // all lines, with their CRLF
}

// lines returns the text of each line, without the reply code.
func (r reply) lines() []string {
	var all []string
	for line := range strings.Lines(string(r.raw)) {
		line = strings.TrimRight(line, "\r\n")
		all = append(all, line[min(4, len(line)):])
	}
	return all
}

// smtpError returns the reply as an error. Its EnhancedCode is the hop's, or zero if
// the hop gave none that fits the reply code, and its Message has the text of all
// lines, separated by "\n", with no enhanced code in any of them: the server puts one
// on each line (RFC 2034, section 4).
func (r reply) smtpError() *smtp.SMTPError {
	code, lines := r.text()
	return &smtp.SMTPError{Code: r.code, EnhancedCode: code, Message: strings.Join(lines, "\n")}
}

// receiptText returns the text of a 250 as one bounded line: the enhanced code, once
// and if there is one, and the text of all lines.
func (r reply) receiptText() string {
	code, lines := r.text()
	line := strings.Join(lines, " ")
	if code != smtp.EnhancedCodeNotSet {
		line = fmt.Sprintf("%d.%d.%d %s", code[0], code[1], code[2], line)
	}
	return cleanLine(line)
}

// QueueID is the id in a text such as "2.0.0 Ok: queued as 4ZxY1b2c3d", or "".
func (r *Receipt) QueueID() string {
	_, id, _ := strings.Cut(r.Text, "queued as ")
	id, _, _ = strings.Cut(id, " ")
	return id
}

// text separates the enhanced code from the text. Hops put the code on each line, as
// they should, or on some lines, or on none; if the codes differ, the first one that
// fits the reply code counts. All are removed. Unprintable characters become spaces
// first, so that none can hide a code.
func (r reply) text() (code smtp.EnhancedCode, lines []string) {
	for _, line := range r.lines() {
		line = text.Printable(line, ' ')
		for {
			found, rest, ok := cutCode(line)
			if !ok {
				break
			}
			if code == smtp.EnhancedCodeNotSet && fits(found, r.code) {
				code = found
			}
			line = rest
		}
		lines = append(lines, line)
	}
	return code, lines
}

// cutCode cuts an enhanced code (RFC 3463, section 2) and the space around it from
// the start of line. A code with a part of more than three digits, which the RFC does
// not allow, is cut off, too, and fits no reply code.
func cutCode(line string) (code smtp.EnhancedCode, rest string, ok bool) {
	word, rest, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || parts[0] != "2" && parts[0] != "4" && parts[0] != "5" {
		return code, line, false
	}
	for i, part := range parts {
		if part == "" || strings.Trim(part, "0123456789") != "" {
			return smtp.EnhancedCode{}, line, false
		}
		n, err := strconv.Atoi(part)
		if err != nil || len(part) > 3 {
			n = -1
		}
		code[i] = n
	}
	return code, strings.TrimLeft(rest, " "), true
}

// fits reports whether an enhanced code is well-formed and of the class of the reply
// code, as RFC 2034, section 4, and RFC 3463, section 2, ask for.
func fits(code smtp.EnhancedCode, replyCode int) bool {
	return code[0] == replyCode/100 && min(code[1], code[2]) >= 0 && max(code[1], code[2]) <= 999
}

// A RefusedError is a refusal by a hop, as opposed to one that the relay decides itself.
// errors.As also finds its reply.
type RefusedError struct {
	Hop   string // the URL
	Reply *smtp.SMTPError
}

func (e *RefusedError) Error() string { return e.Reply.Error() }
func (e *RefusedError) Unwrap() error { return e.Reply }

// classify returns nil, or a *smtp.SMTPError for a refusal by the hop, which may be shown
// to the client, or any other error, after which the connection cannot be used any more.
func classify(err error) error {
	e, ok := errors.AsType[*smtp.SMTPError](err)
	if !ok {
		return err
	}
	switch text := quote(e); {
	case e.Code < 400 || e.Code > 599:
		return fmt.Errorf("%w: %s", errReplyLevel, text)
	// RFC 5321, section 3.8: 421 announces that the hop closes the connection.
	case e.Code == 421:
		return fmt.Errorf("%w: %s", errClosing, text)
	// RFC 4954, section 6, and RFC 3207, section 4: these ask the relay to
	// authenticate or to encrypt, which the client cannot do for it; a mail client
	// would ask its user for a password.
	case e.Code == 530 || e.Code == 534 || e.Code == 535 || e.Code == 538:
		return fmt.Errorf("%w: %s", errRequired, text)
	}
	return refusal(e)
}

// quote returns the hop's reply as one line for the log.
func quote(e *smtp.SMTPError) string {
	code, text := e.EnhancedCode, cleanLine(e.Message)
	if code == smtp.EnhancedCodeNotSet {
		return fmt.Sprintf("%d %s", e.Code, text)
	}
	return fmt.Sprintf("%d %d.%d.%d %s", e.Code, code[0], code[1], code[2], text)
}

// refusal bounds and cleans the hop's reply so that it may be shown to the client. An
// enhanced code that does not fit becomes X.0.0, which means nothing more than its
// class (RFC 3463, section 3.1).
func refusal(e *smtp.SMTPError) *smtp.SMTPError {
	code := e.EnhancedCode
	if !fits(code, e.Code) {
		code = smtp.EnhancedCode{e.Code / 100, 0, 0}
	}
	return &smtp.SMTPError{Code: e.Code, EnhancedCode: code, Message: cleanText(e.Message)}
}

// cleanText keeps the lines, but bounds their number and length and replaces
// unprintable characters by spaces.
func cleanText(s string) string {
	var lines []string
	for line := range strings.SplitSeq(s, "\n") {
		if len(lines) == maxTextLines {
			break
		}
		lines = append(lines, text.Cut(text.Printable(line, ' '), maxTextLine))
	}
	return strings.Join(lines, "\n")
}

// cleanLine is cleanText for text that must be one line.
func cleanLine(s string) string { return text.Line(s, maxTextLine) }
