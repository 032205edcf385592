package policy

import (
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

	"postern/internal/text"
)

// maxText bounds a reply's text, so that the line fits into the 512 octets of
// RFC 5321, section 4.5.3.1.5, with its codes and CRLF.
const maxText = 500

// refuse is the verdict of a restriction that says no: Reject for a 5xx code,
// Defer for a 4xx.
func refuse(code int, enhanced smtp.EnhancedCode, text string) Verdict {
	v := Verdict{Action: Reject, Reply: reply(code, enhanced, text)}
	if v.Reply.Temporary() {
		v.Action = Defer
	}
	return v
}

// rejected words a refusal as Postfix does: who, what, why.
func rejected(subject, class, why string) string {
	return "<" + subject + ">: " + class + " rejected: " + why
}

func reply(code int, enhanced smtp.EnhancedCode, why string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: printable(why)}
}

// printable makes a reply safe to send and to log: the text of a refusal repeats what
// the client has sent.
func printable(s string) string { return text.Replace(text.Cut(s, maxText), isUnsafe, ' ') }

func isUnsafe(c rune) bool {
	return c == utf8.RuneError || unicode.IsControl(c) || unicode.In(c, unicode.Zl, unicode.Zp)
}
