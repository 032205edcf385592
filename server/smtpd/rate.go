package smtpd

import (
	"errors"
	"time"

	"github.com/emersion/go-smtp"
)

var replyTooSlow = NewReply(421, smtp.EnhancedCode{4, 4, 2}, "Error: data rate is too low")

// A dataBudget is how long the server may still wait for a message. It begins with
// Timeouts.Data; waiting uses it up, and each octet extends it by 1/Config.MinDataRate
// seconds, up to Timeouts.Data again (smtpd_per_request_deadline and
// smtpd_min_data_rate). So a client on a slow but steady network has all the time it
// needs, and one that stalls for some minutes continues, but a client that sends an
// octet from time to time does not keep its connection. With BDAT the budget is for all
// chunks and the waits between them.
type dataBudget struct {
	begun bool
	left  time.Duration
}

// fillMessage is fill for a block of a message. It returns ErrTooSlow at the end of the
// budget. Only the waits for the client count, not the work of the server.
func (c *Conn) fillMessage(by time.Time) error {
	if c.cfg.MinDataRate <= 0 {
		return c.fill(by)
	}
	b, most := &c.mail.budget, c.timeouts().Data
	if !b.begun {
		b.begun, b.left = true, most
	}
	start := time.Now()
	end := start.Add(b.left)
	slow := end.Before(by)
	if slow {
		by = end
	}
	err := c.fill(by)
	if slow && errors.Is(err, ErrTimeout) && !time.Now().Before(end) { // else Config.LoginTime is over
		return ErrTooSlow
	}
	octets := time.Duration(c.in.end - c.in.start)
	b.left += octets*time.Second/time.Duration(c.cfg.MinDataRate) - time.Since(start)
	b.left = min(b.left, most)
	return err
}

// fillLine is fill for a command line. Between the chunks of a message it is part of the
// wait for the message.
func (c *Conn) fillLine(by time.Time) error {
	if c.mail.body == nil {
		return c.fill(by)
	}
	err := c.fillMessage(by)
	if errors.Is(err, ErrTooSlow) {
		// The client waits for no reply, so this one is only logged.
		c.session.Refused(Refusal{Verb: "BDAT", Reply: c.abortMessage(err)})
	}
	return err
}
