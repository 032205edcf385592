package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
)

// Postfix slows a client down after 10 errors and hangs up after 20
// (smtpd_soft_error_limit, smtpd_hard_error_limit), and after 100 RSET and the
// like takes each one for an error (smtpd_junk_command_limit); a delivered
// message sets its counts to zero. A connection that comes near is replaced,
// so that one user's mistakes are not the next one's delay.
const (
	maxRefusals  = 8
	maxGiveBacks = 50
)

const (
	resetTimeout = 5 * time.Second // RSET does nothing but forget
	quitTimeout  = 2 * time.Second // nobody waits for the answer
	blockSize    = 32 << 10
)

// A conn is one connection to a hop. It is used by one goroutine at a time.
// After an error that is not a *smtp.SMTPError it is of no use.
type conn struct {
	peer       *peer
	wire       *wire
	client     *smtp.Client
	caps       Caps
	pipelining bool // RFC 2920

	user      string // who has it now
	reused    bool   // somebody else used it before, so the hop may have left
	open      bool   // the hop has a sender from us
	refusals  int    // since the last delivered message
	giveBacks int    // likewise
	delivered int
	overdue   bool // all of a message is out, and nothing of the answer has come in time
	idleSince time.Time

	in *bufio.Reader // a block of the message, made for the first one
}

// worn reports that the hop's patience with this connection is nearly used
// up.
func (c *conn) worn() bool { return c.refusals >= maxRefusals || c.giveBacks >= maxGiveBacks }

// judge is verdict, and counts what the hop counts.
func (c *conn) judge(err error) error {
	err = verdict(err)
	if isRefusal(err) {
		c.refusals++
	}
	return err
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*smtp.SMTPError](err)
	return ok
}

// mail names the sender to the hop. A hop with PIPELINING hears it together
// with the next recipient (RFC 2920 3.1), and rcpt returns what it says to that.
func (c *conn) mail(ctx context.Context, from string, opts *smtp.MailOptions) error {
	// RFC 6531 3.2: without SMTPUTF8 on the way the message must go back.
	if opts.UTF8 && !c.caps.SMTPUTF8 {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 6, 7}, Message: "The next hop does not take internationalized mail"}
	}
	defer c.wire.within(ctx, c.peer.command).end()
	c.wire.hold = c.pipelining
	err := c.judge(c.client.Mail(from, opts))
	c.open = c.open || err == nil
	return err
}

// rcpt names a recipient to the hop. Without c.open, the error is about the
// sender.
func (c *conn) rcpt(ctx context.Context, r recipient) error {
	defer c.wire.within(ctx, c.peer.command).end()
	err := c.judge(c.client.Rcpt(r.address, r.options()))
	if c.wire.ahead && isRefusal(err) {
		c.open = false
		c.skipReply()
	}
	return err
}

// skipReply reads what the hop says to a recipient behind a refused sender.
// That must be a refusal, too, of which nobody needs to hear; the hop counts
// it. After anything else the connection is not to be used again.
func (c *conn) skipReply() {
	c.wire.ahead = false
	r, err := c.wire.reply()
	if err != nil || r.code < 400 || r.code == 421 {
		c.refusals = maxRefusals
	}
	c.refusals++
}

// data hands over the message for the recipients that were accepted, and
// returns the hop's text. errUncertain is the error if the hop has been told
// that the data ends and did not answer that: the message may be delivered.
func (c *conn) data(ctx context.Context, m *message.Message) (string, error) {
	// RFC 6152 3: who cannot convert and cannot pass on 8-bit data gives the
	// message back. RFC 3463: X.6.3, conversion required but not supported.
	if m.EightBit() && !c.caps.EightBit {
		return "", &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 3}, Message: "The next hop takes 7-bit mail only, and this message has 8-bit characters"}
	}
	body, err := c.beginData(ctx)
	if err != nil {
		return "", err
	}
	bound := c.wire.within(ctx, c.peer.data)
	text, err := c.bodyAndEnd(body, m)
	if bound.settle() && !c.overdue {
		c.drop()
	}
	return text, err
}

func (c *conn) bodyAndEnd(body *smtp.DataCommand, m *message.Message) (string, error) {
	// Between the answer to DATA and CloseWithResponse the client writes
	// nothing, so whole blocks go beneath it; its DotWriter, which has seen
	// none of them, then sends just CRLF "." CRLF, and the last block with it.
	// If the message cannot be read to its end, that block never leaves.
	if err := c.write(m); err != nil {
		return "", err
	}
	return c.endData(body)
}

func (c *conn) beginData(ctx context.Context) (*smtp.DataCommand, error) {
	defer c.wire.within(ctx, c.peer.command).end()
	body, err := c.client.Data()
	return body, c.judge(err)
}

func (c *conn) write(m *message.Message) error {
	if c.in == nil {
		c.in = bufio.NewReaderSize(nil, blockSize)
	}
	c.in.Reset(m.Reader())
	err := writeBody(c.wire.out, c.in)
	c.in.Reset(nil) // an idle connection holds no message
	return err
}

func (c *conn) endData(body *smtp.DataCommand) (string, error) {
	answer, err := body.CloseWithResponse()
	if err == nil {
		c.open, c.refusals, c.giveBacks = false, 0, 0
		c.delivered++
		return cleanLine(answer.StatusText), nil
	}
	err = c.endVerdict(err)
	c.open = false // RFC 5321 4.1.1.4: a refusal, too, ends the transaction
	return "", err
}

// endVerdict is judge for the answer to the end of data, after which nothing
// is ever tried again.
func (c *conn) endVerdict(err error) error {
	var e *smtp.SMTPError
	if errors.As(err, &e) && e.Code == 421 {
		// It was refused for sure; that the hop leaves is not the client's
		// business, and 421 would say that we leave.
		c.refusals = maxRefusals
		gone := *e
		gone.Code = 451
		return refusal(&gone)
	}
	// If the final dot did not leave as a whole, the data has no end, and
	// the hop throws it away (RFC 5321 4.1.1.4). Over TLS, too: what is left
	// of a record cannot be read.
	if err = c.judge(err); isRefusal(err) || c.wire.cut {
		return err
	}
	c.overdue = errors.Is(err, os.ErrDeadlineExceeded) && !c.wire.torn
	return fmt.Errorf("%w: %w", errUncertain, err)
}

// reset makes the hop forget sender and recipients. It does so on the bare
// wire: go-smtp's client would say EHLO again before the next MAIL, a second
// round trip that Postfix counts as junk like the RSET itself.
func (c *conn) reset(ctx context.Context) error {
	defer c.wire.within(ctx, resetTimeout).end()
	_, err := c.wire.command("RSET", 250)
	c.open = false
	c.giveBacks++
	return err
}

// quit says goodbye. RFC 5321 4.1.1.10.
func (c *conn) quit() {
	b := c.wire.within(context.Background(), quitTimeout)
	c.client.Quit()
	b.end()
	c.drop()
}

// drop hangs up. In the middle of a message it is the only way to abandon it:
// DataCommand.Close would send the final dot.
func (c *conn) drop() { c.wire.raw.Close() }
