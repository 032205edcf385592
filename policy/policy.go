// Package policy decides what a client may do, in the words that Postfix users
// know: lists of named restrictions such as
//
//	permit_sasl_authenticated, reject
//
// A [Restriction] is a small immutable value that looks at a [Request] and
// returns a [Verdict]. A [List] is asked in order, and a [Set] holds the lists
// of all stages and asks them when Postfix would with smtpd_delay_reject = yes.
// Names, codes and texts are those of Postfix's smtpd(8) and postconf(5).
//
// The lists come from a [Config]. [Config.Lint] tells what is allowed but can
// hardly be meant, and [Set.OpenRelay] what must not be started.
//
// To add a restriction, write its type in the file of the fact that it looks
// at (client.go, helo.go, sender.go, recipient.go; general.go if it looks at
// none), add one line to the table in table.go and its questions and answers
// to testdata.
//
// A restriction cannot fail, it can only defer: a lookup that gives no answer
// is a deferral with the Cause in the verdict.
//
// Left out are access tables, DNS block lists, policy servers and restriction
// classes.
//
// RFCs: 5321 and 6409 for what the restrictions ask for, 3463 and 7505 for
// their codes, 6531 and 5891 for domains beyond ASCII.
package policy

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/emersion/go-smtp"
)

// An Action is what a restriction asks for.
type Action uint8

const (
	Dunno         Action = iota // no opinion: ask the next restriction
	Permit                      // end of this list: yes
	Reject                      // end of everything: no, 5xx
	Defer                       // end of everything: not now, 4xx
	DeferIfPermit               // go on, but a later permit becomes a 4xx
	DeferIfReject               // go on, but a later reject becomes a 4xx
)

// A Verdict is the answer of a restriction or, from the methods of a [Set],
// the final one: then its Action is Permit, Reject or Defer.
type Verdict struct {
	Action Action
	Reply  *smtp.SMTPError // for the client; set for Reject and Defer..., else nil
	// Restriction is the spelling of the restriction that decided, for the
	// log. It is empty where a list ended without one. The lists fill it in.
	Restriction string
	Warnings    []string // what warn_if_reject would have refused, for the log
	Cause       error    // for the log only
}

// A Restriction is one word of a list. It is a small immutable value, used by
// many sessions at once; String is its spelling in the configuration.
type Restriction interface {
	fmt.Stringer
	// Check looks at r and changes nothing of it. ctx bounds the lookups.
	Check(ctx context.Context, r *Request) Verdict
}

// A List is asked in order. The first Permit, Reject or Defer ends it;
// DeferIfPermit and DeferIfReject colour the end, as in Postfix.
type List []Restriction

// A Request holds what is known of the client and its message when the
// restrictions are asked. It is a plain value that the server fills; fields of
// a later stage are zero at an earlier one.
type Request struct {
	Session       string // session id, for the log
	Listener      string
	Remote, Local netip.AddrPort
	Helo          string // EHLO or HELO argument, as received
	TLS           TLS

	Login     string // canonical user, empty without authentication
	Mechanism string

	// Sender and Recipient are addresses without brackets, completed with the
	// server's origin if the client sent no domain. Sender is empty for <>,
	// Recipient at all stages but RCPT. SenderSent and RecipientSent are the
	// addresses as the client sent them, for reject_non_fqdn_* and for replies;
	// empty is the same as the completed one.
	Sender, SenderSent       string
	Recipient, RecipientSent string

	Recipients int   // accepted so far, this RCPT not counted
	Size       int64 // bytes; as declared at MAIL, as received at end of data
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

// TLS holds the facts of the transport. The zero value is clear text.
type TLS struct {
	Version string // as tls.VersionName spells it: "TLS 1.3"
	Cipher  string
}
