package relay

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// The cause is that of the reply, and not of words in the names that it quotes.
func TestExplain(t *testing.T) {
	const rcpt = "RCPT TO:<b@example.org>"
	for _, tt := range []struct {
		command, reply string
		reach          Reach
		step           string // what it contains
	}{
		{rcpt, "454 4.7.1 <b@example.org>: Relay access denied", All, "add 192.0.2.7 to its mynetworks"},
		{rcpt, "554 5.7.1 <b@example.org>: Recipient address rejected: Access denied", All, "requires a login"},
		{rcpt, "554 5.7.1 <b@example.org>: Recipient address rejected: Access denied. blocked using milter", All, "requires a login"},
		{rcpt, "504 5.5.2 <mail>: Helo command rejected: need fully-qualified hostname", All, "set server.hostname"},
		{rcpt, "450 4.7.1 <mail.example.org>: Helo command rejected: Host not found", All, "in the DNS"},
		{rcpt, "554 5.7.1 <mail.example.org>: Helo command rejected: You are not me", All, "smtpd_helo_restrictions"},
		{rcpt, "553 5.7.1 <a@example.org>: Sender address rejected: not owned by user postern", All, "smtpd_sender_login_maps"},
		{rcpt, "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.example.com", All, "blocklist about 192.0.2.7"},
		{rcpt, "554 5.7.1 Service unavailable; Sender address [a@example.org] blocked using dbl.example.com", All, "names in a message"},
		{rcpt, "451 4.3.5 <b@example.org>: Recipient address rejected: Server configuration problem", All, "policy service"},
		{rcpt, "451 4.3.5 Server configuration problem - try again later", All, "error of its own"},
		{rcpt, "450 4.3.2 Service currently unavailable", All, "postscreen"},
		{"EHLO mail", "421 4.3.0 hop.example.org Server local error", All, "PROXY protocol"},
		{"RCPT TO:<b@example.net>", "450 4.1.2 <b@example.net>: Recipient address rejected: Domain not found", Some, "DNS of the hop does not work"},
		{rcpt, "450 4.1.2 <b@example.org>: Recipient address rejected: Domain not found", None, "--to"},
		{rcpt, "450 4.1.1 <b@example.org>: Recipient address rejected: unverified address: Address verification in progress", None, "in a minute"},
		{rcpt, "450 4.1.1 <b@example.org>: Recipient address rejected: unverified address: Connection refused", None, "status=undeliverable"},
		{rcpt, "550 5.1.1 User not listed in Domino Directory", None, "no such user"},
		{rcpt, "451 4.7.1 Please try again later", None, "another try later"},
		{rcpt, "450 4.7.1 Error: too many recipients from 192.0.2.7", None, "limits the rate"},
		{rcpt, "452 4.5.3 Error: too many recipients", None, "smtpd_recipient_limit"},
		{rcpt, "550 5.7.1 rejected by milter", Some, "look for the reason"},
		{rcpt, "450 4.7.1 failed to integrate with the corporate directory", Some, "look for the reason"},
		{rcpt, "550 5.7.1 <blocklist@limit.example>: rejected, see https://rate.example/blocklist", Some, "look for the reason"},
		{"RCPT TO:<greylist@nullmx.example>", "550 5.7.1 No: greylist.nullmx.example", Some, "look for the reason"},
	} {
		p := &peer{helo: "mail.example.org"}
		r := Refused{Command: tt.command, Reply: tt.reply}
		first, _, _ := strings.Cut(tt.reply, ". ")
		p.explain(&r, first, netip.MustParseAddr("192.0.2.7"))
		if r.Reach != tt.reach || !strings.Contains(r.Step, tt.step) {
			t.Errorf("%s: reach %d, %s; want %d, %s", tt.reply, r.Reach, r.Step, tt.reach, tt.step)
		}
	}
}

// A hop whose smtpd ends at once closes the connection without a greeting.
func TestAdviceClosed(t *testing.T) {
	for _, err := range []error{io.EOF, fmt.Errorf("read: %w", io.ErrUnexpectedEOF)} {
		if step := (&peer{}).advice(err); !strings.Contains(step, "closes the connection instead of a reply") {
			t.Errorf("%v: %s", err, step)
		}
	}
}
