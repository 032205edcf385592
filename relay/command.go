package relay

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
)

// MaxAddress is the longest address that is sent to a hop, in octets. RFC 5321, section
// 4.5.3.1, lets a client rely on a path of 256 only, but local parts of more than 64
// octets are in use (VERP, hashes), and Postfix accepts them. 1,000 octets of address
// and all parameters fit into the 2,048 that Postfix reads of a command
// (line_length_limit).
const MaxAddress = 1000

var crlf = []byte("\r\n")

// RFC 3463, section 3.2: bad address syntax.
var (
	badRecipient = smtp.EnhancedCode{5, 1, 3}
	badSender    = smtp.EnhancedCode{5, 1, 7}
)

// A recipient is one RCPT with its DSN parameters, validated by newRecipient.
type recipient struct {
	address      string
	notify       []smtp.DSNNotify
	original     string // encoded, as the client sent it
	originalType smtp.DSNAddressType
}

// newRecipient validates a recipient and copies the options that RCPT passes on. The
// error is a *smtp.SMTPError.
func newRecipient(to string, opts *smtp.RcptOptions, allow8bit bool) (recipient, error) {
	r := recipient{address: to}
	if to == "" {
		return r, badAddress(badRecipient, "Address is empty")
	}
	if err := checkAddress(to, allow8bit, badRecipient); err != nil {
		return r, err
	}
	if opts == nil {
		return r, nil
	}
	r.notify, r.original, r.originalType = opts.Notify, opts.OriginalRecipient, opts.OriginalRecipientType
	if len(r.notify) > 0 && !validNotify(r.notify) {
		return r, errDSN()
	}
	// UTF-8 is valid whether or not the transaction uses SMTPUTF8, since rcptCommand
	// converts it where it must.
	if r.original != "" && !dsn.ValidOriginalRecipient(string(r.originalType), r.original, true) {
		return r, errDSN()
	}
	return r, nil
}

// validNotify: RFC 3461, section 4.1: NEVER excludes all others. No keyword may be
// repeated.
func validNotify(values []smtp.DSNNotify) bool {
	seen := map[smtp.DSNNotify]bool{}
	for _, v := range values {
		known := v == smtp.DSNNotifyNever || v == smtp.DSNNotifyDelayed || v == smtp.DSNNotifyFailure || v == smtp.DSNNotifySuccess
		if !known || seen[v] {
			return false
		}
		seen[v] = true
	}
	return !seen[smtp.DSNNotifyNever] || len(values) == 1
}

// CheckRecipient validates what MAIL and RCPT would pass on, as Transaction.Rcpt does
// before it asks a hop. It returns nil, or a *smtp.SMTPError for a value that must not
// be sent to a hop.
func CheckRecipient(e *Envelope, to string, opts *smtp.RcptOptions) error {
	if err := checkSender(e); err != nil {
		return err
	}
	_, err := newRecipient(to, opts, e.Options.UTF8)
	return err
}

// checkSender validates the values of e that MAIL passes on. ENVID must be xtext
// (see Envelope). The error is a *smtp.SMTPError.
func checkSender(e *Envelope) error {
	if err := checkAddress(e.Sender, e.Options.UTF8, badSender); err != nil {
		return err
	}
	ret, id := e.Options.Return, e.Options.EnvelopeID
	// RFC 3461, section 4.3.
	if ret != "" && ret != smtp.DSNReturnFull && ret != smtp.DSNReturnHeaders {
		return errDSN()
	}
	if id != "" && !dsn.ValidEnvelopeID(id) {
		return errDSN()
	}
	return nil
}

func errDSN() error {
	return &smtp.SMTPError{Code: 501, EnhancedCode: smtp.EnhancedCode{5, 5, 4}, Message: "Malformed DSN parameter"}
}

// checkAddress makes sure that an address stays an address in the command line:
// that it cannot become a second command, a parameter, or octets that the hop did
// not agree to. It is not a full parser; the server and the hop have one.
func checkAddress(address string, allow8bit bool, bad smtp.EnhancedCode) error {
	if len(address) > MaxAddress {
		return badAddress(bad, "Address is too long")
	}
	if !utf8.ValidString(address) {
		return badAddress(bad, "Address is not UTF-8")
	}
	quoted, escaped := false, false
	for _, r := range address {
		switch {
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return badAddress(bad, "Address contains a control character")
		// RFC 6531, section 3.4: such an address needs SMTPUTF8.
		case r >= 0x80 && !allow8bit:
			return &smtp.SMTPError{Code: 553, EnhancedCode: smtp.EnhancedCode{5, 6, 7}, Message: "Address needs SMTPUTF8"}
		case escaped:
			escaped = false
		case quoted && r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		case !quoted && (r == ' ' || r == '<' || r == '>'):
			return badAddress(bad, "Address contains an unquoted special character")
		}
	}
	if quoted {
		return badAddress(bad, "Address contains an unfinished quoted string")
	}
	return nil
}

func badAddress(code smtp.EnhancedCode, why string) error {
	return &smtp.SMTPError{Code: 501, EnhancedCode: code, Message: why}
}

// An extensions value is what a hop offers of the extensions that MAIL and RCPT depend
// on.
type extensions struct {
	size, eightBit, utf8, dsn bool
}

// mailCommand and rcptCommand write what go-smtp's client cannot: it encodes ENVID and
// ORCPT itself, and refuses values that are valid (RFC 3461). Their arguments have been
// validated by checkSender and newRecipient, so that no value can add a parameter or a
// second command.
//
// The longest line is that of an RCPT with MaxAddress octets of address, all of
// NOTIFY and an ORCPT of dsn.MaxOriginalRecipient octets: about 1,550 octets. RFC
// 5321, section 4.5.3.1.4, and the extensions promise less; Postfix reads 2,048
// (line_length_limit).

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
