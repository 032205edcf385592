package relay

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/internal/text"
)

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
		return fmt.Errorf("the hop is closing the connection: %s", text)
	// RFC 4954, section 6, and RFC 3207, section 4: these ask the relay to
	// authenticate or to encrypt, which the client cannot do for it; a mail client
	// would ask its user for a password.
	case e.Code == 530 || e.Code == 534 || e.Code == 535 || e.Code == 538:
		return fmt.Errorf("the hop requires authentication or TLS from postern: %s", text)
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
