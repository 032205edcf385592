// Package policy decides what a client may do, in the words that Postfix users
// know: lists of named restrictions such as
//
//	permit_sasl_authenticated, reject
//
// A [Restriction] is a small immutable value that looks at a [Request] and
// returns a [Verdict]. A [List] asks its restrictions in order, and a [Set]
// holds the lists of all stages and asks them when Postfix would with
// smtpd_delay_reject = yes.
//
// To add a restriction, write its Check in the file of the stage that it
// belongs to (client.go, helo.go, sender.go, recipient.go, ...) and add one
// line to the table in table.go.
//
// A restriction cannot fail, it can only defer: a lookup that gives no answer
// is a Defer with the Cause in the verdict.
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

// A Verdict is the answer of a restriction or a list.
type Verdict struct {
	Action Action
	Reply  *smtp.SMTPError // for the client; set for Reject and Defer..., else nil
	// Restriction is the spelling of the restriction that decided, for the log.
	Restriction string
	Warnings    []string // what warn_if_reject would have refused, for the log
	Cause       error    // for the log only
}

// A Restriction is one word of a list. It is a small immutable value, used by
// many sessions at once; String is its spelling in the configuration.
type Restriction interface {
	fmt.Stringer
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

	Sender     string // without brackets; empty for <>
	Recipient  string // the one of this RCPT; empty at other stages
	Recipients int    // accepted so far, this RCPT not counted
	Size       int64  // bytes; as declared at MAIL, as received at end of data
}

// TLS holds the facts of the transport. The zero value is clear text.
type TLS struct {
	Version string // as tls.VersionName spells it: "TLS 1.3"
	Cipher  string
}
