package relay

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-smtp"
)

// errUncertain means that the hop may have the message or may not: trying
// again is the client's decision, since it could make two of it.
var errUncertain = errors.New("the hop did not confirm the message")

// IsUncertain reports that err came after the end of the data had gone out:
// the hop may have the message or may not.
func IsUncertain(err error) bool { return errors.Is(err, errUncertain) }

// How much of a hop's text a client gets to see.
const (
	maxTextLines = 8
	maxTextLine  = 400
)

// verdict says what an error from go-smtp's client means: nil, the hop's own
// refusal as a *smtp.SMTPError that is fit for our client, or any other
// error, after which the connection is of no use.
func verdict(err error) error {
	e, ok := errors.AsType[*smtp.SMTPError](err)
	if !ok {
		return err
	}
	switch said := quote(e); {
	case e.Code < 400 || e.Code > 599:
		return fmt.Errorf("%w: %s", errReplyLevel, said)
	// RFC 5321 3.8: 421 announces that the hop is about to hang up.
	case e.Code == 421:
		return fmt.Errorf("the hop is closing the connection: %s", said)
	// RFC 4954 6, RFC 3207 4: these ask us to authenticate or encrypt, which
	// the client cannot do for us; its user would be asked for a password.
	case e.Code == 530 || e.Code == 534 || e.Code == 535 || e.Code == 538:
		return fmt.Errorf("the hop wants us to authenticate or to use TLS: %s", said)
	}
	return refusal(e)
}

// quote is the hop's answer for the log.
func quote(e *smtp.SMTPError) string {
	code := e.EnhancedCode
	if code == smtp.EnhancedCodeNotSet {
		return fmt.Sprintf("%d %s", e.Code, cleanLine(e.Message))
	}
	return fmt.Sprintf("%d %d.%d.%d %s", e.Code, code[0], code[1], code[2], cleanLine(e.Message))
}

// refusal makes the hop's answer fit to be shown to our client.
func refusal(e *smtp.SMTPError) *smtp.SMTPError {
	code := e.EnhancedCode
	// RFC 3463 2: class "." subject "." detail. RFC 2034 4: the class is that
	// of the reply code.
	if code[0] != e.Code/100 || !isSubcode(code[1]) || !isSubcode(code[2]) {
		code = smtp.EnhancedCode{e.Code / 100, 0, 0}
	}
	return &smtp.SMTPError{Code: e.Code, EnhancedCode: code, Message: cleanText(e.Message)}
}

func isSubcode(n int) bool { return n >= 0 && n <= 999 }

// cleanText keeps the lines, but bounds their number and length and takes
// out what is no printable character.
func cleanText(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if len(lines) == maxTextLines {
			break
		}
		lines = append(lines, clip(printable(line), maxTextLine))
	}
	return strings.Join(lines, "\n")
}

// cleanLine is cleanText for where only one line fits.
func cleanLine(text string) string {
	return clip(strings.Join(strings.Fields(printable(text)), " "), maxTextLine)
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// clip cuts s to at most n bytes, between two characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
