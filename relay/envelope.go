package relay

import (
	"unicode/utf8"

	"github.com/emersion/go-smtp"
)

// maxAddress is well above RFC 5321 4.5.3.1.3 (256) and keeps a command line
// bounded.
const maxAddress = 900

// RFC 3463 3.2: bad address syntax.
var (
	badRecipient = smtp.EnhancedCode{5, 1, 3}
	badSender    = smtp.EnhancedCode{5, 1, 7}
)

// A recipient is one RCPT with its DSN parameters.
type recipient struct {
	address  string
	notify   []smtp.DSNNotify
	original string
	kind     smtp.DSNAddressType
}

// user is who waits his turn for a connection: a login, or, without one, the
// address of the client.
func (e *Envelope) user() string {
	if e.Login != "" {
		return e.Login
	}
	return "\x00" + e.Remote.Addr().String()
}

// checkSender looks at what MAIL will pass on.
func checkSender(e *Envelope) error {
	if err := checkAddress(e.Sender, e.Options.UTF8, badSender); err != nil {
		return err
	}
	ret, id := e.Options.Return, e.Options.EnvelopeID
	// RFC 3461 4.3, 4.4: an ENVID is printable and has at most 100 characters.
	if ret != "" && ret != smtp.DSNReturnFull && ret != smtp.DSNReturnHeaders || len(id) > 100 || !isPrintableASCII(id) {
		return errDSN()
	}
	return nil
}

func errDSN() error {
	return &smtp.SMTPError{Code: 501, EnhancedCode: smtp.EnhancedCode{5, 5, 4}, Message: "Malformed DSN parameter"}
}

// newRecipient takes over what is passed on: only what was checked here.
func newRecipient(to string, opts *smtp.RcptOptions, allow8bit bool) (recipient, error) {
	r := recipient{address: to}
	if to == "" {
		return r, badAddress(badRecipient, "Address is empty")
	}
	if err := checkAddress(to, allow8bit, badRecipient); err != nil {
		return r, err
	}
	if opts != nil {
		r.notify, r.original, r.kind = opts.Notify, opts.OriginalRecipient, opts.OriginalRecipientType
	}
	if !validNotify(r.notify) || !validOriginal(r.original, r.kind) {
		return r, errDSN()
	}
	return r, nil
}

// CheckRecipient says what Rcpt would, before it asks a hop: nil, or a
// *smtp.SMTPError for an address or a parameter that must not go on the wire.
func CheckRecipient(e *Envelope, to string, opts *smtp.RcptOptions) error {
	if err := checkSender(e); err != nil {
		return err
	}
	_, err := newRecipient(to, opts, e.Options.UTF8)
	return err
}

func (r recipient) options() *smtp.RcptOptions {
	return &smtp.RcptOptions{Notify: r.notify, OriginalRecipientType: r.kind, OriginalRecipient: r.original}
}

func (r recipient) wantsDSN() bool { return len(r.notify) > 0 || r.original != "" }

// RFC 3461 4.1: NEVER stands alone, and nothing stands twice.
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

// RFC 3461 4.2, RFC 6533 3. What is special is encoded by go-smtp.
func validOriginal(address string, kind smtp.DSNAddressType) bool {
	switch {
	case address == "":
		return true
	case len(address) > maxAddress:
		return false
	case kind == smtp.DSNAddressTypeRFC822:
		return isPrintableASCII(address)
	}
	return kind == smtp.DSNAddressTypeUTF8 && utf8.ValidString(address)
}

func isPrintableASCII(s string) bool {
	for _, b := range []byte(s) {
		if b < ' ' || b > '~' {
			return false
		}
	}
	return true
}

// checkAddress keeps an address from becoming anything else on the wire: a
// second command, a parameter, or bytes that the hop did not agree to. It is
// not a full parser; that is the server's and the hop's business.
func checkAddress(address string, allow8bit bool, bad smtp.EnhancedCode) error {
	if len(address) > maxAddress {
		return badAddress(bad, "Address is too long")
	}
	if !utf8.ValidString(address) {
		return badAddress(bad, "Address is not UTF-8")
	}
	quoted, escaped := false, false
	for _, r := range address {
		switch {
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return badAddress(bad, "Address has a control character in it")
		// RFC 6531 3.4: such an address needs SMTPUTF8.
		case r >= 0x80 && !allow8bit:
			return &smtp.SMTPError{Code: 553, EnhancedCode: smtp.EnhancedCode{5, 6, 7}, Message: "Address needs SMTPUTF8"}
		case escaped:
			escaped = false
		case quoted && r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		case !quoted && (r == ' ' || r == '<' || r == '>'):
			return badAddress(bad, "Address has an unquoted special character in it")
		}
	}
	if quoted {
		return badAddress(bad, "Address has an unfinished quoted string in it")
	}
	return nil
}

func badAddress(code smtp.EnhancedCode, why string) error {
	return &smtp.SMTPError{Code: 501, EnhancedCode: code, Message: why}
}
