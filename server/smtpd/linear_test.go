package smtpd

import (
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/test/kit"
)

// Reading the argument of MAIL or RCPT allocates in proportion to its length, up to the longest
// command line.
func TestArgumentsAreLinear(t *testing.T) {
	var shapes []kit.Shape
	for _, unit := range []string{"a", "a.", ".", "a@", "<", "<>", ">", "@a,", "@a:", "(", "(a)", ")", `"`, `"a"`, `"a".`, `\`, `\a`, "[", "[]", ",", ";", ":", " ", "\t", "\u00fc", "\xff", "a=", "a= ", "ENVID=a ", "+41", `\x{41}`} {
		for _, where := range []struct{ before, after string }{{"FROM:<", "@example.org>"}, {"FROM:<a@", ">"}, {"FROM:", ""}, {"FROM:<a@example.org> ", ""}, {"FROM:<a@example.org> ENVID=", ""}, {"FROM:<a@example.org> AUTH=", ""}} {
			shapes = append(shapes, kit.Shape{Name: where.before + unit + where.after, Make: func(n int) string {
				return where.before + strings.Repeat(unit, n/len(unit)) + where.after
			}})
		}
	}
	c := &Conn{offer: Offer{Size: 1 << 20, DSN: true, UTF8: true}}
	kit.LinearGrowth(t, shapes, 1<<10, func(text string) func() {
		return func() {
			_, parameters, _ := parseArgument(text, "FROM:", replyMailSyntax, replyBadSender)
			parseParameters(c, parameters, mailParameters, &smtp.MailOptions{})
			_, parameters = cutPath(text)
			parseParameters(c, parameters, rcptParameters, &smtp.RcptOptions{})
		}
	})
}
