package smtpd

import (
	"bytes"
	"cmp"
	"errors"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

var (
	replyDataSyntax = NewReply(501, smtp.EnhancedCode{5, 5, 4}, "Syntax: DATA")
	replyBdatSyntax = NewReply(501, smtp.EnhancedCode{5, 5, 4}, "Syntax: BDAT count [LAST]")
	replyNeedRcpt   = NewReply(503, smtp.EnhancedCode{5, 5, 1}, "Error: need RCPT command")
	replyNoRcpt     = NewReply(554, smtp.EnhancedCode{5, 5, 1}, "Error: no valid recipients")

	// RFC 3030, section 2: the client may have sent these chunks before it knew of the
	// refusal, so they are not errors. They count as junk, otherwise a client could send
	// such chunks without end, and each would be logged.
	replyChunkAfterRefusal = &Reply{Code: 503, Enhanced: smtp.EnhancedCode{5, 5, 1}, Lines: []string{"Error: an earlier chunk was refused"}, NotAnError: true}
	replyTinyChunks        = NewReply(554, smtp.EnhancedCode{5, 7, 0}, "Error: too many small chunks")

	replyOutOfStep = NewReply(421, smtp.EnhancedCode{4, 7, 0}, "Error: cannot tell where the next command begins")
	replyTooMuch   = NewReply(421, smtp.EnhancedCode{4, 7, 0}, "Error: too much data")
	replyCutShort  = NewReply(421, smtp.EnhancedCode{4, 4, 2}, "Error: message cut short")
)

// data is DATA (RFC 5321, section 4.1.1.4).
func (c *Conn) data(verb, argument string) (*Reply, error) {
	switch {
	case argument != "":
		return replyDataSyntax, nil
	case c.mail.bdat:
		return replyInBdat, nil
	case c.mail.rcpts == 0:
		return c.noRecipient(), nil
	}
	if r := c.beginMessage(false); r != nil {
		return r, nil
	}
	c.send(replyStartData)
	failed, err := c.readMessage()
	if err != nil {
		return nil, c.cutShort(verb, nil, err)
	}
	c.endMessage(verb, failed)
	return nil, nil
}

// noRecipient distinguishes a client that pipelined recipients, which were all refused,
// from a client that sent none.
func (c *Conn) noRecipient() *Reply {
	if c.mail.open {
		return replyNoRcpt
	}
	return replyNeedRcpt
}

func (c *Conn) beginMessage(bdat bool) *Reply {
	ctx, cancel := c.replyContext()
	defer cancel()
	body, r := c.session.Data(ctx, bdat)
	if r != nil && r.Negative() {
		return r
	}
	c.mail.body = body
	return nil
}

// abortMessage aborts the message, if one is being received, and returns the reply to it.
func (c *Conn) abortMessage(err error) *Reply {
	body := c.mail.body
	if body == nil {
		return nil
	}
	c.mail.body = nil
	return body.Abort(err)
}

// readMessage pushes the message into the body, without the dots that were stuffed, up to
// its final dot. failed is why the message cannot be accepted; the rest is read first,
// because the client does not read the reply before. If a client sends more than twice the
// limit, the connection is closed. After err, the connection has to be closed.
func (c *Conn) readMessage() (failed, err error) {
	u := unstuffer{}
	for size := int64(0); !u.ended; {
		if c.in.start >= c.in.end {
			if err := c.fillMessage(time.Now().Add(c.timeouts().Data)); err != nil {
				return nil, err
			}
		}
		text, rest := u.next(c.in.buffer()[c.in.start-1 : c.in.end])
		c.in.start = c.in.end - len(rest)
		size += int64(len(text))
		if failed == nil && c.offer.Size > 0 && size > c.offer.Size {
			failed = ErrTooLarge
		}
		if failed == nil && len(text) > 0 {
			_, failed = c.mail.body.Write(text)
		}
		switch {
		case u.ended:
		case c.offer.Size > 0 && size > 2*c.offer.Size:
			c.CloseAfterReply(replyTooMuch)
			u.ended = true
		case len(text) < len(block{})/2:
			quickAck(c.transport.Conn) // the rest may wait for it
		}
	}
	return failed, nil
}

// endMessage commits the message, or aborts it if it has failed, and ends the
// transaction.
func (c *Conn) endMessage(verb string, failed error) {
	var r *Reply
	if failed != nil {
		r = c.abortMessage(failed)
	} else {
		body := c.mail.body
		c.mail.body = nil
		ctx, cancel := c.replyContext()
		defer cancel()
		if r = body.Commit(ctx); r == nil {
			r = replyOk
		}
	}
	if r.Negative() {
		c.refuse(verb, "", r)
	} else {
		c.errors, c.junk = 0, 0
		c.send(r)
	}
	c.endTransaction(ResetMessage, nil)
}

// cutShort handles a message or a chunk that is incomplete because the connection ended or
// the client stopped sending. It closes the connection, because the next input may be the
// rest of the message, which must not be read as commands. refused is nil if the message
// was not refused before.
func (c *Conn) cutShort(verb string, refused *Reply, err error) error {
	c.refuse(verb, "", cmp.Or(c.abortMessage(err), refused))
	if errors.Is(err, ErrTooSlow) {
		c.CloseAfterReply(replyTooSlow)
	}
	c.CloseAfterReply(replyCutShort)
	if errors.Is(err, ErrTimeout) || errors.Is(err, ErrTooSlow) {
		return ErrClosed // the client may wake up
	}
	return err
}

// An unstuffer removes the dot that the client has added to each line that begins with a
// dot, and finds the final dot (RFC 5321, section 4.5.2). Only CRLF "." CRLF ends a
// message. Its result does not depend on how the message was cut into blocks.
type unstuffer struct {
	state unstuffState
	ended bool // the final dot has been found
}

type unstuffState uint8

const (
	atLineStart unstuffState = iota // after CRLF, or at the very beginning
	afterDot                        // after a dot at the start of a line, which is removed
	afterDotCR                      // after a CR after that
	inLine
	afterCR // after a CR in a line
)

// next removes the added dots from b[1:], in place. It returns the text and, after the end
// of the message, the rest of b. b[0] is space for a CR that was held back from the
// previous block.
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

// scan returns the number of octets of p, which begins within a line, before the next dot
// at the start of a line.
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

// chunks is the state of a message that is sent with BDAT (RFC 3030).
type chunks struct {
	bdat     bool  // there has been a chunk
	body     Body  // nil if a chunk was refused
	received int64 // octets of all chunks
	count    int64 // of chunks
}

// A message may have freeChunks chunks of any size, and one more for each octetsPerChunk
// octets, because tiny chunks cost the server more than the client.
const (
	freeChunks     = 2000
	octetsPerChunk = 512
	maxReceived    = 1 << 62 // the count of octets stops here
)

// maxPreAuthChunk bounds how much of a refused chunk is read from a client that has not
// authenticated.
const maxPreAuthChunk = 16 << 10

// bdat is BDAT. The octets of the chunk follow the line, whether the command is
// accepted or not, and are read before the reply is sent.
func (c *Conn) bdat(verb, argument string) (*Reply, error) {
	size, last, ok := parseChunk(argument)
	if !ok { // the length of the chunk is unknown
		c.refuse(verb, argument, replyBdatSyntax)
		c.CloseAfterReply(replyOutOfStep)
		return nil, nil
	}
	refused := c.admitChunk(size)
	if refused == replyChunkAfterRefusal {
		defer c.countJunk()
	}
	if refused != nil && (size > c.mostDiscarded() || c.offer.Size > 0 && c.mail.received > 2*c.offer.Size) {
		c.refuse(verb, argument, refused)
		c.CloseAfterReply(replyTooMuch)
		return nil, nil
	}
	failed, err := c.readChunk(size)
	refused = cmp.Or(failed, refused)
	switch {
	case err != nil:
		return nil, c.cutShort(verb, refused, err)
	case refused != nil:
		c.refuse(verb, argument, refused)
		if last && c.mail.bdat {
			c.endTransaction(ResetMessage, nil)
		}
	case last:
		c.endMessage(verb, nil)
	default:
		return replyChunkOk, nil
	}
	return nil, nil
}

// parseChunk reads "size [LAST]".
func parseChunk(argument string) (size int64, last, ok bool) {
	fields := strings.Fields(argument)
	if len(fields) == 2 && strings.EqualFold(fields[1], "LAST") {
		last = true
	} else if len(fields) != 1 {
		return 0, false, false
	}
	size, ok = parseNumber(fields[0])
	return size, last, ok
}

// admitChunk decides, before a chunk of size octets is read, whether it is accepted. It
// asks the session before the first chunk. After a refusal there is no body.
func (c *Conn) admitChunk(size int64) *Reply {
	m := &c.mail
	switch {
	case c.cfg.RequireTLS && c.transport.tls == nil:
		return replyNeedTLS
	case c.hides("CHUNKING"):
		return replyNotImplemented
	case m.rcpts == 0:
		return c.noRecipient()
	case !m.bdat:
		m.bdat = true
		if r := c.beginMessage(true); r != nil {
			return r
		}
	}
	m.count++
	m.received += min(size, maxReceived-m.received)
	switch {
	case m.count > freeChunks+m.received/octetsPerChunk:
		c.abortMessage(ErrReset)
		return replyTinyChunks
	case m.body == nil:
		return replyChunkAfterRefusal
	case c.offer.Size > 0 && m.received > c.offer.Size:
		return c.abortMessage(ErrTooLarge)
	}
	return nil
}

// mostDiscarded is how many octets of a refused chunk are read. After a longer one, or
// after more than twice the limit of a message in chunks, the connection is closed.
func (c *Conn) mostDiscarded() int64 {
	if !c.preAuthOver.Load() {
		return maxPreAuthChunk
	}
	return max(2*c.offer.Size, maxPreAuthChunk)
}

// readChunk pushes size octets into the body, or discards them if there is none. If the
// body fails, the Reply is the refusal. After err, the connection has to be closed.
func (c *Conn) readChunk(size int64) (failed *Reply, err error) {
	for size > 0 {
		if c.in.start >= c.in.end {
			if err := c.fillMessage(time.Now().Add(c.timeouts().Data)); err != nil {
				return failed, err
			}
		}
		p := c.in.use(size)
		size -= int64(len(p))
		if c.mail.body != nil {
			if _, err := c.mail.body.Write(p); err != nil {
				failed = c.abortMessage(err)
			}
		}
		if size > 0 && len(p) < len(block{})/2 {
			quickAck(c.transport.Conn) // the rest may wait for it
		}
	}
	return failed, nil
}
