package relay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
)

// Postfix delays a client after 10 errors and closes the connection after 20
// (smtpd_soft_error_limit, smtpd_hard_error_limit), and counts RSET and the like as
// errors after 100 of them (smtpd_junk_command_limit); a delivered message resets its
// counters. A connection that comes near is replaced, so that one user's mistakes do
// not delay another user.
const (
	maxRefusals = 8
	maxReleases = 50
)

const (
	resetTimeout = 5 * time.Second
	quitTimeout  = 2 * time.Second // the reply does not matter
	blockSize    = 32 << 10
)

// maxLate bounds the wait for a hop where nothing else does. RFC 5321, section
// 4.5.3.2.6: a client waits ten minutes for the reply to the end of the data.
const maxLate = 10 * time.Minute

// A conn is one connection to a hop. It is used by one goroutine at a time.
// After an error that is not a *smtp.SMTPError it cannot be used any more.
type conn struct {
	*replyReader
	peer       *peer
	caps       Caps
	offers     extensions
	pipelining bool // RFC 2920

	user        string // of the current transaction
	reused      bool   // it has been idle, so the hop may have closed it
	open        bool   // the hop has accepted the sender, or MAIL is pending
	mailPending bool   // MAIL is sent together with the next RCPT; its reply is still to come
	smtputf8    bool   // the last MAIL had SMTPUTF8
	refusals    int    // since the last delivered message
	releases    int    // likewise: RSET after a transaction that was not finished
	delivered   int
	idleSince   time.Time

	body *bufio.Reader // a block of the message, allocated for the first one
}

// nearErrorLimit reports that the hop will soon delay or close this connection.
func (c *conn) nearErrorLimit() bool { return c.refusals >= maxRefusals || c.releases >= maxReleases }

// result returns err, or nil for a reply that is a success for its command. Otherwise it
// returns the reply as an error (see classify), and counts it if the hop counts it.
func (c *conn) result(r reply, err error, success bool) error {
	if err != nil || success {
		return err
	}
	err = classify(r.smtpError())
	if e, ok := errors.AsType[*smtp.SMTPError](err); ok {
		c.refusals++
		return &RefusedError{c.peer.url.String(), e}
	}
	return err
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*smtp.SMTPError](err)
	return ok
}

// mail sends MAIL. With PIPELINING it goes out together with the next RCPT
// (RFC 2920, section 3.1), and rcpt returns the reply if it is a refusal.
func (c *conn) mail(ctx context.Context, from string, opts *smtp.MailOptions) error {
	// RFC 6531, section 3.2: a message must not go on without SMTPUTF8 if it has it.
	if opts.UTF8 && !c.caps.SMTPUTF8 {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 6, 7}, Message: "The next hop does not support internationalized mail"}
	}
	defer c.within(ctx, c.peer.cfg.CommandTimeout).end()
	c.smtputf8 = opts.UTF8
	line := mailCommand(from, opts, c.offers)
	if c.pipelining {
		err := c.queue(line)
		c.mailPending, c.open = err == nil, err == nil
		return err
	}
	r, err := c.exchange(line)
	err = c.result(r, err, r.code == 250)
	c.open = err == nil
	return err
}

// rcpt sends RCPT. If c.open is false afterwards, the error is about the sender.
func (c *conn) rcpt(ctx context.Context, to recipient) error {
	defer c.within(ctx, c.peer.cfg.CommandTimeout).end()
	if err := c.queue(rcptCommand(to, c.smtputf8, c.offers)); err != nil {
		return err
	}
	if c.mailPending {
		c.mailPending = false
		r, err := c.reply()
		err = c.result(r, err, r.code == 250)
		if isRefusal(err) {
			// The reply to RCPT must be a refusal, too, which the hop counts. After any
			// other reply the connection is not used again.
			c.open = false
			r, err := c.reply()
			if err != nil || r.code < 400 || r.code == 421 {
				c.refusals = maxRefusals
			}
			c.refusals++
		}
		if err != nil {
			return err
		}
	}
	r, err := c.reply()
	return c.result(r, err, r.code/10 == 25) // 251 is a success, too (RFC 5321, section 3.4)
}

// data sends the message for the recipients that were accepted, and returns the text
// of the hop's 250. The error is errUncertain if the end of the data has been sent and
// the hop has not replied to it: the message may have been delivered. The last block of
// the message stays in the buffer, to be sent together with the end of the data. If the
// message cannot be read to its end, that block is never sent.
func (c *conn) data(ctx context.Context, m *message.Message) (string, error) {
	// RFC 6152, section 3: a relay that cannot convert 8-bit data returns the message.
	// RFC 3463: X.6.3, conversion required but not supported.
	if m.EightBit() && !c.caps.EightBit {
		return "", &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 3}, Message: "The next hop supports 7-bit mail only, and this message has 8-bit characters"}
	}
	bound := c.within(ctx, c.peer.cfg.CommandTimeout)
	r, err := c.exchange("DATA")
	bound.end()
	if err = c.result(r, err, r.code == 354); err != nil {
		return "", err
	}
	if c.body == nil {
		c.body = bufio.NewReaderSize(nil, blockSize)
	}
	c.body.Reset(m.Reader())
	defer c.body.Reset(nil) // an idle connection must not keep the message in memory
	defer c.within(ctx, c.peer.cfg.DataTimeout).end()
	if err := writeBody(c.out, c.body); err != nil {
		return "", err
	}
	return c.endData()
}

// endData sends the CRLF "." CRLF and returns the text of the 250. After any other reply,
// and without one, the message is not sent again.
func (c *conn) endData() (string, error) {
	r, err := c.exchange("\r\n.")
	c.open = false // RFC 5321, section 4.1.1.4: a refusal, too, ends the transaction
	switch {
	case err == nil && r.code == 250:
		c.refusals, c.releases = 0, 0
		c.delivered++
		return r.receiptText(), nil
	case err == nil && r.code == 421:
		// The message is refused for certain. To the client, 421 would mean that
		// this server closes the connection, and not the hop.
		c.refusals = maxRefusals
		refused := r.smtpError()
		refused.Code = 451
		return "", &RefusedError{c.peer.url.String(), refusal(refused)}
	}
	// If the final dot was not sent completely, the data has no end, and the hop
	// discards it (RFC 5321, section 4.1.1.4). This holds over TLS, too: an incomplete
	// record cannot be decrypted.
	if err = c.result(r, err, false); isRefusal(err) || c.unsent {
		return "", err
	}
	c.overdue = errors.Is(err, os.ErrDeadlineExceeded) && !c.partial
	return "", fmt.Errorf("%w: %w", errUncertain, err)
}

// lateReply waits for the reply, of which nothing has been read yet, and ends the
// connection with QUIT.
func (c *conn) lateReply(ctx context.Context) (text string, err error) {
	defer c.raw.Close()
	bound := c.within(ctx, maxLate)
	r, err := c.reply()
	bound.end()
	if err != nil {
		return "", fmt.Errorf("%w: %w", errUncertain, err)
	}
	text = r.receiptText() // before the next reply takes its place
	bound = c.within(ctx, quitTimeout)
	_, _ = c.command("QUIT", 221) // the connection is closed in any case
	bound.end()
	if r.code != 250 {
		return "", fmt.Errorf("the hop has refused the message at last: %d %s", r.code, text)
	}
	return text, nil
}

// reset discards sender and recipients at the hop (RSET).
func (c *conn) reset(ctx context.Context) error {
	defer c.within(ctx, resetTimeout).end()
	_, err := c.command("RSET", 250)
	c.open = false
	c.releases++
	return err
}

// quit ends the connection (RFC 5321, section 4.1.1.10).
func (c *conn) quit() {
	b := c.within(context.Background(), quitTimeout)
	_, _ = c.command("QUIT", 221) // the connection is closed in any case
	b.end()
	c.raw.Close()
}

// errUnclean means that a decorator has broken the guarantee of package message.
var errUnclean = errors.New("the message contains a bare CR, a bare LF or a NUL")

// writeBody writes the message from in to out, dot-stuffed (RFC 5321, section 4.5.2),
// but for its last CRLF, which belongs to the CRLF "." CRLF that the caller ends the
// data with; this makes an empty message one empty line. The last block stays in out,
// to be sent with that end.
//
// It makes sure that only clean bytes are sent (RFC 5321, section 2.3.8): a Postfix that
// trusts this server does not check, and a bare LF before a dot could end the data
// there.
func writeBody(out *bufio.Writer, in *bufio.Reader) error {
	start, due := true, false // at the start of a line; CRLF still to be written
	for {
		// The next bytes of in, without separating a CR from its LF.
		if _, err := in.Peek(len(crlf)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		block, _ := in.Peek(in.Buffered())
		if last := len(block) - 1; last > 0 && block[last] == '\r' {
			block = block[:last]
		}
		if len(block) == 0 {
			return nil
		}
		dots, clean := checkBlock(block, start)
		if !clean {
			return errUnclean
		}
		if due {
			out.Write(crlf)
		}
		if start && block[0] == '.' {
			out.WriteByte('.')
		}
		text, ended := bytes.CutSuffix(block, crlf)
		for dots {
			end := bytes.Index(text, []byte("\n."))
			if end < 0 {
				break
			}
			out.Write(text[:end+1])
			out.WriteByte('.')
			text = text[end+1:]
		}
		if _, err := out.Write(text); err != nil {
			return err
		}
		if _, err := in.Discard(len(block)); err != nil {
			return err
		}
		start, due = ended, ended
	}
}

// checkBlock reports whether a line of block begins with a dot, and whether block is
// clean: CR and LF occur in pairs only, and NUL does not occur.
func checkBlock(block []byte, start bool) (dots, clean bool) {
	dots = start && block[0] == '.'
	lines := 0
	for rest := block; ; lines++ {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			break
		}
		if end == 0 || rest[end-1] != '\r' {
			return dots, false
		}
		rest = rest[end+1:]
		dots = dots || len(rest) > 0 && rest[0] == '.'
	}
	return dots, bytes.Count(block, crlf[:1]) == lines && bytes.IndexByte(block, 0) < 0
}
