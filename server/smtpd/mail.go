package smtpd

import (
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
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

	replyUnknownParameter = NewReply(555, smtp.EnhancedCode{5, 5, 4}, "Error: unknown parameter") // RFC 5321, section 4.1.1.11
	replyTooLarge         = NewReply(552, smtp.EnhancedCode{5, 3, 4}, "Message size exceeds fixed limit")
)

// A transaction is the state between MAIL and the end of the message. The zero
// value is none.
type transaction struct {
	open      bool // MAIL was accepted
	utf8      bool // with SMTPUTF8
	rcpts     int  // accepted
	overshoot int  // refused because there were too many
	budget    dataBudget
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

func (c *Conn) mailFrom(_, argument string) (*Reply, error) {
	switch {
	case c.hello == "":
		return replyNeedHello, nil
	case c.mail.bdat:
		return replyInBdat, nil
	case c.mail.open:
		return replyNestedMail, nil
	}
	path, parameters, r := parseArgument(argument, "FROM:", replyMailSyntax, replyBadSender)
	options := new(smtp.MailOptions)
	if r == nil {
		r = parseParameters(c, parameters, mailParameters, options)
	}
	if r == nil && !options.UTF8 && !text.IsASCII(path.String()) {
		r = replyNeedUTF8
	}
	if r != nil {
		return r, nil
	}
	ctx, cancel := c.replyContext()
	defer cancel()
	if r := c.session.Mail(ctx, path, options); r != nil && r.Negative() {
		return r, nil
	}
	c.mail = transaction{open: true, utf8: options.UTF8}
	c.setBusy(true)
	return replyMailOk, nil
}

func (c *Conn) rcptTo(_, argument string) (*Reply, error) {
	switch {
	case !c.mail.open:
		return replyNeedMail, nil
	case c.mail.bdat:
		return replyInBdat, nil
	}
	path, parameters, r := parseArgument(argument, "TO:", replyRcptSyntax, replyBadRecipient)
	switch {
	case r != nil:
		return r, nil
	case path.IsNull():
		return replyBadRecipient, nil
	case c.offer.RcptMax > 0 && c.mail.rcpts >= c.offer.RcptMax:
		return c.tooManyRecipients(), nil
	}
	options := new(smtp.RcptOptions)
	if r := parseParameters(c, parameters, rcptParameters, options); r != nil {
		return r, nil
	}
	if !c.mail.utf8 && !text.IsASCII(path.String()) {
		return replyNeedUTF8, nil
	}
	ctx, cancel := c.replyContext()
	defer cancel()
	if r := c.session.Rcpt(ctx, path, options); r != nil && r.Negative() {
		return r, nil
	}
	c.mail.rcpts++
	return replyRcptOk, nil
}

// parseArgument parses the argument of MAIL or RCPT as far as the parameters. The keyword
// may be in any case. The Reply is syntax if there is no path, and bad if it is invalid.
func parseArgument(argument, keyword string, syntax, bad *Reply) (p Path, parameters string, r *Reply) {
	if len(argument) < len(keyword) || !strings.EqualFold(argument[:len(keyword)], keyword) {
		return Path{}, "", syntax
	}
	sent, parameters := cutPath(argument[len(keyword):])
	p, ok := parsePath(sent)
	switch {
	case sent == "":
		return Path{}, "", syntax
	case !ok:
		return Path{}, "", bad
	}
	return p, parameters, nil
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

func parameterSyntax(name string) *Reply {
	return NewReply(501, smtp.EnhancedCode{5, 5, 4}, "Error: bad "+name+" parameter syntax")
}

func parameterUnavailable(name string) *Reply {
	return NewReply(504, smtp.EnhancedCode{5, 5, 4}, "Error: "+name+" is not offered")
}

// A parameter is a row of the tables: how the value of a parameter with that name
// becomes an option. The Reply refuses the command.
type parameter[Options any] struct {
	name  string
	value bool // it has a value; the others must not have one
	set   func(c *Conn, o *Options, value string) *Reply
}

var mailParameters = []parameter[smtp.MailOptions]{
	{"SIZE", true, setSize},
	{"BODY", true, setBody},
	{"SMTPUTF8", false, setUTF8},
	{"AUTH", true, ignoreAuth},
	{"RET", true, setReturn},
	{"ENVID", true, setEnvelopeID},
	{"REQUIRETLS", false, func(*Conn, *smtp.MailOptions, string) *Reply { return parameterUnavailable("REQUIRETLS") }},
}

var rcptParameters = []parameter[smtp.RcptOptions]{
	{"NOTIFY", true, setNotify},
	{"ORCPT", true, setOriginalRecipient},
}

// parseParameters reads what follows a path (RFC 5321, section 4.1.2). A parameter
// that occurs twice, or that has a value against its definition, or lacks one, is an
// error (RFC 1869, section 4.1.2; Postfix is laxer).
func parseParameters[Options any](c *Conn, s string, table []parameter[Options], o *Options) *Reply {
	var seen [8]bool
	for field := range strings.FieldsSeq(s) {
		name, value, hasValue := strings.Cut(field, "=")
		i := slices.IndexFunc(table, func(p parameter[Options]) bool {
			return strings.EqualFold(name, p.name) && text.IsASCII(name)
		})
		switch {
		case i < 0:
			return replyUnknownParameter
		case seen[i] || hasValue != table[i].value:
			return parameterSyntax(table[i].name)
		}
		seen[i] = true
		// The options live as long as the message, and must not keep the whole line.
		if r := table[i].set(c, o, strings.Clone(value)); r != nil {
			return r
		}
	}
	return nil
}

// setSize is RFC 1870, section 6: the number may have 20 digits; one that is larger
// than anything is too large.
func setSize(c *Conn, o *smtp.MailOptions, value string) *Reply {
	size, ok := parseNumber(value)
	switch {
	case !ok:
		return parameterSyntax("SIZE")
	case c.offer.Size > 0 && size > c.offer.Size:
		return replyTooLarge
	}
	o.Size = size
	return nil
}

// parseNumber reads decimal digits, as many as there are. A number above 2^63-1 is
// that.
func parseNumber(s string) (n int64, ok bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, _ = strconv.ParseInt(s, 10, 64) // 2^63-1, where the error is that it is out of range
	return n, true
}

// setBody is RFC 6152. BINARYMIME (RFC 3030) is not offered.
func setBody(_ *Conn, o *smtp.MailOptions, value string) *Reply {
	body := smtp.BodyType(strings.ToUpper(value))
	switch body {
	case smtp.Body7Bit, smtp.Body8BitMIME:
		o.Body = body
		return nil
	case smtp.BodyBinaryMIME:
		return parameterUnavailable("BODY=BINARYMIME")
	}
	return parameterSyntax("BODY")
}

func setUTF8(c *Conn, o *smtp.MailOptions, _ string) *Reply {
	if !c.offer.UTF8 {
		return parameterUnavailable("SMTPUTF8")
	}
	o.UTF8 = true
	return nil
}

// ignoreAuth is RFC 4954, section 5: the value counts only between servers that
// trust each other, so any form of it is taken and none is used.
func ignoreAuth(*Conn, *smtp.MailOptions, string) *Reply { return nil }

func setReturn(c *Conn, o *smtp.MailOptions, value string) *Reply {
	if !c.offer.DSN {
		return parameterUnavailable("RET")
	}
	ret := smtp.DSNReturn(strings.ToUpper(value))
	if ret != smtp.DSNReturnFull && ret != smtp.DSNReturnHeaders {
		return parameterSyntax("RET")
	}
	o.Return = ret
	return nil
}

func setEnvelopeID(c *Conn, o *smtp.MailOptions, value string) *Reply {
	if !c.offer.DSN {
		return parameterUnavailable("ENVID")
	}
	if !dsn.ValidEnvelopeID(value) {
		return parameterSyntax("ENVID")
	}
	o.EnvelopeID = value
	return nil
}

// setNotify is RFC 3461, section 4.1: NEVER is alone, and nothing occurs twice.
func setNotify(c *Conn, o *smtp.RcptOptions, value string) *Reply {
	if !c.offer.DSN {
		return parameterUnavailable("NOTIFY")
	}
	for keyword := range strings.SplitSeq(strings.ToUpper(value), ",") {
		n := smtp.DSNNotify(keyword)
		switch n {
		case smtp.DSNNotifyNever, smtp.DSNNotifySuccess, smtp.DSNNotifyFailure, smtp.DSNNotifyDelayed:
		default:
			return parameterSyntax("NOTIFY")
		}
		for _, other := range o.Notify {
			if other == n || other == smtp.DSNNotifyNever || n == smtp.DSNNotifyNever {
				return parameterSyntax("NOTIFY")
			}
		}
		o.Notify = append(o.Notify, n)
	}
	return nil
}

// setOriginalRecipient is RFC 3461, section 4.2. The text stays as the client sent it.
func setOriginalRecipient(c *Conn, o *smtp.RcptOptions, value string) *Reply {
	if !c.offer.DSN {
		return parameterUnavailable("ORCPT")
	}
	kind, address, found := strings.Cut(value, ";")
	if !found || !dsn.ValidOriginalRecipient(kind, address, c.mail.utf8) {
		return parameterSyntax("ORCPT")
	}
	o.OriginalRecipientType, o.OriginalRecipient = smtp.DSNAddressType(kind), address
	return nil
}
