package smtpd

import (
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/internal/text"
)

var (
	replyMailSyntax   = NewReply(501, smtp.EnhancedCode{5, 5, 4}, "Syntax: MAIL FROM:<address>")
	replyRcptSyntax   = NewReply(501, smtp.EnhancedCode{5, 5, 4}, "Syntax: RCPT TO:<address>")
	replyBadSender    = NewReply(501, smtp.EnhancedCode{5, 1, 7}, "Bad sender address syntax")
	replyBadRecipient = NewReply(501, smtp.EnhancedCode{5, 1, 3}, "Bad recipient address syntax")
	replyNeedUTF8     = NewReply(553, smtp.EnhancedCode{5, 6, 7}, "Address needs SMTPUTF8") // RFC 6531, section 3.5
	replyNestedMail   = NewReply(503, smtp.EnhancedCode{5, 5, 1}, "Error: nested MAIL command")
	replyNeedMail     = NewReply(503, smtp.EnhancedCode{5, 5, 1}, "Error: need MAIL command")
	replyInBdat       = NewReply(503, smtp.EnhancedCode{5, 5, 1}, "Error: a message is being sent with BDAT")
)

// A transaction is the state between MAIL and the end of the message. The zero
// value is none.
type transaction struct {
	open      bool // MAIL was accepted
	utf8      bool // with SMTPUTF8
	rcpts     int  // accepted
	overshoot int  // refused because there were too many
	chunks
}

// endTransaction ends the transaction, if there is one. A message under way is
// aborted with reason.
func (c *Conn) endTransaction(why Cause, reason error) {
	if !c.mail.open {
		return
	}
	_ = c.abortMessage(reason) // it is in reply to no command
	c.mail = transaction{}
	c.session.Reset(c.ctx, why)
	c.setBusy(false)
}

func (c *Conn) mailFrom(verb, argument string) error {
	options := new(smtp.MailOptions)
	path, r := c.parseMail(argument, options)
	if r != nil {
		c.refuse(verb, argument, r)
		return nil
	}
	ctx, cancel := c.replyContext()
	defer cancel()
	if r := c.session.Mail(ctx, path, options); r != nil && r.Negative() {
		c.refuse(verb, argument, r)
		return nil
	}
	c.mail = transaction{open: true, utf8: options.UTF8}
	c.setBusy(true)
	c.send(replyMailOk)
	return nil
}

func (c *Conn) parseMail(argument string, options *smtp.MailOptions) (Path, *Reply) {
	switch {
	case c.hello == "":
		return Path{}, replyNeedHello
	case c.mail.bdat:
		return Path{}, replyInBdat
	case c.mail.open:
		return Path{}, replyNestedMail
	}
	rest, ok := cutPrefixFold(argument, "FROM:")
	if !ok {
		return Path{}, replyMailSyntax
	}
	sent, parameters := cutPath(rest)
	path, ok := parsePath(sent)
	switch {
	case sent == "":
		return Path{}, replyMailSyntax
	case !ok:
		return Path{}, replyBadSender
	}
	if r := parseParameters(c, parameters, mailParameters, options); r != nil {
		return Path{}, r
	}
	if !options.UTF8 && !text.IsASCII(path.String()) {
		return Path{}, replyNeedUTF8
	}
	return path, nil
}

func (c *Conn) rcptTo(verb, argument string) error {
	options := new(smtp.RcptOptions)
	path, r := c.parseRcpt(argument, options)
	if r != nil {
		c.refuse(verb, argument, r)
		return nil
	}
	ctx, cancel := c.replyContext()
	defer cancel()
	if r := c.session.Rcpt(ctx, path, options); r != nil && r.Negative() {
		c.refuse(verb, argument, r)
		return nil
	}
	c.mail.rcpts++
	c.send(replyRcptOk)
	return nil
}

func (c *Conn) parseRcpt(argument string, options *smtp.RcptOptions) (Path, *Reply) {
	switch {
	case !c.mail.open:
		return Path{}, replyNeedMail
	case c.mail.bdat:
		return Path{}, replyInBdat
	}
	rest, ok := cutPrefixFold(argument, "TO:")
	if !ok {
		return Path{}, replyRcptSyntax
	}
	sent, parameters := cutPath(rest)
	path, ok := parsePath(sent)
	switch {
	case sent == "":
		return Path{}, replyRcptSyntax
	case !ok || path.IsNull():
		return Path{}, replyBadRecipient
	case c.offer.RcptMax > 0 && c.mail.rcpts >= c.offer.RcptMax:
		return Path{}, c.tooManyRecipients()
	}
	if r := parseParameters(c, parameters, rcptParameters, options); r != nil {
		return Path{}, r
	}
	if !c.mail.utf8 && !text.IsASCII(path.String()) {
		return Path{}, replyNeedUTF8
	}
	return path, nil
}

// tooManyRecipients is temporary (RFC 5321, section 4.5.3.1.10): the client sends the
// message to the first ones and comes back for the rest. So it is no error, up to a
// number of them.
func (c *Conn) tooManyRecipients() *Reply {
	c.mail.overshoot++
	r := NewReply(452, smtp.EnhancedCode{4, 5, 3}, "Error: too many recipients; the limit is "+strconv.Itoa(c.offer.RcptMax))
	r.NotAnError = c.mail.overshoot <= c.cfg.MaxOvershoot
	return r
}

// cutPrefixFold removes a prefix of ASCII letters, of any case.
func cutPrefixFold(s, prefix string) (rest string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}
