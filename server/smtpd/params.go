package smtpd

import (
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
	"postern/internal/text"
)

var (
	replyUnknownParameter = NewReply(555, smtp.EnhancedCode{5, 5, 4}, "Error: unknown parameter") // RFC 5321, section 4.1.1.11
	replyTooLarge         = NewReply(552, smtp.EnhancedCode{5, 3, 4}, "Message size exceeds fixed limit")
)

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
		i := findParameter(table, name)
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

func findParameter[Options any](table []parameter[Options], name string) int {
	for i := range table {
		if strings.EqualFold(name, table[i].name) && text.IsASCII(name) {
			return i
		}
	}
	return -1
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
