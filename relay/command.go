package relay

import (
	"fmt"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
)

// The functions below write MAIL and RCPT, which go-smtp's client cannot do: it
// encodes ENVID and ORCPT itself, and refuses values that are valid (RFC 3461).
// Their arguments have been validated by checkSender and newRecipient, so that no
// value can add a parameter or a second command.
//
// The longest line is that of an RCPT with MaxAddress octets of address, all of
// NOTIFY and an ORCPT of dsn.MaxOriginalRecipient octets: about 1,550 octets. RFC
// 5321, section 4.5.3.1.4, and the extensions promise less; Postfix reads 2,048
// (line_length_limit).

// An extensions value is what a hop offers of what MAIL and RCPT depend on.
type extensions struct {
	size, eightBit, utf8, dsn bool
}

// mailCommand returns MAIL without CRLF. AUTH= is never passed on: it would make
// the hop believe a claim that only this server can check (RFC 4954, section 5).
// Neither are parameters of extensions that the hop does not offer.
func mailCommand(from string, opts *smtp.MailOptions, hop extensions) string {
	var b strings.Builder
	fmt.Fprintf(&b, "MAIL FROM:<%s>", from)
	if hop.eightBit {
		b.WriteString(" BODY=8BITMIME")
	}
	if hop.size && opts.Size > 0 {
		fmt.Fprintf(&b, " SIZE=%d", opts.Size)
	}
	if hop.utf8 && opts.UTF8 {
		b.WriteString(" SMTPUTF8")
	}
	if hop.dsn && opts.Return != "" {
		fmt.Fprintf(&b, " RET=%s", opts.Return)
	}
	if hop.dsn && opts.EnvelopeID != "" {
		fmt.Fprintf(&b, " ENVID=%s", opts.EnvelopeID)
	}
	return b.String()
}

// rcptCommand returns RCPT without CRLF. smtputf8 is whether MAIL had SMTPUTF8;
// without it the whole line must be ASCII (RFC 6531, section 3.4), so an ORCPT in
// UTF-8 is converted, and left out if it is too long then (RFC 6533, section 3).
func rcptCommand(r recipient, smtputf8 bool, hop extensions) string {
	var b strings.Builder
	fmt.Fprintf(&b, "RCPT TO:<%s>", r.address)
	if !hop.dsn {
		return b.String()
	}
	for i, condition := range r.notify {
		separator := ","
		if i == 0 {
			separator = " NOTIFY="
		}
		b.WriteString(separator + string(condition))
	}
	original, ok := r.original, r.original != ""
	if ok && !smtputf8 {
		original, ok = dsn.ASCIIOriginalRecipient(string(r.originalType), original)
	}
	if ok {
		fmt.Fprintf(&b, " ORCPT=%s;%s", r.originalType, original)
	}
	return b.String()
}
