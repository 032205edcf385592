// Package policy decides what a client may do. It takes lists of named restrictions, as
// Postfix does:
//
//	permit_sasl_authenticated, check_sender_access texthash:/etc/postern/senders, reject
//
// A [Restriction] is a small immutable value that looks at a [Request] and returns a
// [Verdict]. A [List] is evaluated in order, and a [Set] holds the lists of all stages and
// evaluates them when Postfix does with smtpd_delay_reject = yes. Names, reply codes and texts
// are those of Postfix's smtpd(8), postconf(5) and access(5).
//
// The lists come from a [Config]. [Config.Lint] warns about what is allowed but is almost
// certainly a mistake, and [Set.OpenRelay] finds what the server must refuse to start with.
// [Set.Explain] returns one [Step] for each restriction that was evaluated.
//
// To add a restriction, write its type in the file of its subject (client.go for the client
// and its EHLO name, mailbox.go for sender and recipient, access.go for lookup tables), add
// one row to the array table in table.go and its dialogues to testdata. Table types are in
// package lookup.
//
// A restriction cannot fail, it can only defer: a lookup without an answer is a deferral with
// the Cause in the verdict.
//
// Left out are DNS block lists, policy delegation and restriction classes.
//
// RFCs: 5321 and 6409 for what the restrictions require, 3463 and 7505 for their enhanced
// codes, 6531 and 5891 for internationalized domains.
package policy

import (
	"context"
	"fmt"
	"net/netip"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

	"postern/internal/text"
)

// An Action is what a restriction asks for.
type Action uint8

const (
	Dunno         Action = iota // no opinion: continue with the next restriction
	Permit                      // ends this list
	Reject                      // ends the evaluation with a 5xx reply
	Defer                       // ends the evaluation with a 4xx reply
	DeferIfPermit               // continue, but a later permit becomes a 4xx reply
	DeferIfReject               // continue, but a later reject becomes a 4xx reply
)

func (a Action) String() string {
	names := [...]string{"dunno", "permit", "reject", "defer", "defer_if_permit", "defer_if_reject"}
	if int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("action %d", uint8(a))
}

// A Verdict is the result of a restriction or, if it comes from a method of a [Set], of a
// whole evaluation: then its Action is Permit, Reject or Defer.
type Verdict struct {
	Action Action
	Reply  *smtp.SMTPError // for the client; nil unless the Action rejects or defers
	// Restriction is the restriction that decided, as it is configured. The lists fill it
	// in. It is empty where a list ended without a decision.
	Restriction string
	Entry       string   // the entry of a lookup table that decided, for the log
	Warnings    []string // what warn_if_reject did not refuse, and WARN in tables; for the log
	Cause       error    // for the log only

	sub *sublist // restrictions to evaluate in place of the one that returned them
}

// A sublist is a list of restrictions that is the value of a table entry.
type sublist struct {
	list     List
	warn     bool // the table was asked under warn_if_reject
	noPermit bool // a permit is ignored
}

// A Restriction is one word of a list with its arguments. It is an immutable value that many
// sessions use at once; String returns it as it is configured.
type Restriction interface {
	fmt.Stringer
	// Check does not change r. ctx bounds the lookups.
	Check(ctx context.Context, r *Request) Verdict
}

// A List is evaluated in order. The first Permit, Reject or Defer ends it; DeferIfPermit and
// DeferIfReject change what a later verdict means, as in Postfix.
type List []Restriction

// A Request is what is known about the client and its message when the restrictions are
// evaluated. It is a plain value that the server fills; fields of a later stage are zero at
// an earlier one.
type Request struct {
	Session       string // session id, for the log
	Listener      string
	Remote, Local netip.AddrPort
	AtProxy       bool   // Remote is the proxy's own address, so it is never in mynetworks
	Helo          string // EHLO or HELO argument, as received
	TLS           TLS

	Login     string // canonical user name, empty without authentication
	Mechanism string

	// Sender and Recipient are addresses without angle brackets, completed with the
	// server's origin if the client sent no domain. Sender is empty for <>, Recipient at
	// all stages except RCPT. SenderSent and RecipientSent are the addresses as the client
	// sent them, for reject_non_fqdn_* and for replies; empty means that they are the same
	// as the completed ones.
	Sender, SenderSent       string
	Recipient, RecipientSent string

	Recipients int   // accepted so far, the one of this RCPT not counted
	Size       int64 // bytes; as declared at MAIL, as received at the end of data
}

// TLS describes the transport. The zero value is clear text.
type TLS struct {
	Version string // as tls.VersionName returns it: "TLS 1.3"
	Cipher  string
}

// senderSent is the sender as the client sent it.
func (r *Request) senderSent() string {
	if r.SenderSent != "" {
		return r.SenderSent
	}
	return r.Sender
}

// recipientSent is the recipient as the client sent it.
func (r *Request) recipientSent() string {
	if r.RecipientSent != "" {
		return r.RecipientSent
	}
	return r.Recipient
}

// maxText bounds a reply's text, so that the line fits into the 512 octets of RFC 5321,
// section 4.5.3.1.5, with its codes and CRLF.
const maxText = 500

// refuse is the verdict of a restriction that refuses: Reject for a 5xx code, Defer for a 4xx
// code.
func refuse(code int, enhanced smtp.EnhancedCode, why string) Verdict {
	v := Verdict{Action: Reject, Reply: &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: printable(why)}}
	if v.Reply.Temporary() {
		v.Action = Defer
	}
	return v
}

// rejected is the text of a refusal in Postfix's form. name and class are Postfix's
// reply_name and reply_class.
func rejected(name, class, why string) string {
	return "<" + name + ">: " + class + " rejected: " + why
}

// printable makes a reply safe to send and to log: the text of a refusal repeats what the
// client has sent.
func printable(s string) string {
	return text.Replace(text.Cut(s, maxText), func(c rune) bool {
		return c == utf8.RuneError || unicode.IsControl(c) || unicode.In(c, unicode.Zl, unicode.Zp)
	}, ' ')
}

// warning is a refusal as it is logged under warn_if_reject.
func warning(by Restriction, v Verdict) string {
	e := v.Reply.EnhancedCode
	return fmt.Sprintf("%s: %d %d.%d.%d %s", by, v.Reply.Code, e[0], e[1], e[2], v.Reply.Message)
}
