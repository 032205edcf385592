// Package dsn checks and converts the texts in the ENVID and ORCPT parameters of
// SMTP (delivery status notifications, RFC 3461 and RFC 6533).
//
// Both parameters are kept as the client sent them, that is, encoded: a decoded
// value is any sequence of octets, which neither JSON nor a command line can
// hold, and an encoder may choose another of several valid encodings. The server
// checks each value once, with [ValidEnvelopeID] or [ValidOriginalRecipient];
// from then on the text travels unchanged to the next hop. Values are decoded
// only for delivery reports, which show them (RFC 3464, sections 2.2.1 and 2.3.1).
//
// All functions are pure and safe for concurrent use. Their time and memory are
// linear in the length of their arguments.
//
// The other DSN parameters (RET, NOTIFY) are keywords and need no functions here.
package dsn // import "postern/internal/dsn"

import "strings"

// maxEnvelopeID is the limit of RFC 3461, section 4.4, in characters. It is
// applied to the decoded value, so that it does not matter how many of them are encoded.
const maxEnvelopeID = 100

// ValidXtext reports whether s is xtext (RFC 3461, section 4): printable ASCII
// without space, in which "+" begins the two hexadecimal digits of an octet.
//
// Two things are accepted beyond the RFC, since clients send them and Postfix accepts
// them: lower-case digits, and "=" that is not encoded. The empty string
// is valid xtext.
func ValidXtext(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			if _, ok := hexOctet(s[i+1:]); !ok {
				return false
			}
			i += 2
		case !isGraphic(c):
			return false
		}
	}
	return true
}

// DecodeXtext returns the octets that s encodes, which may be any, control
// characters and invalid UTF-8 included. It returns false if s is not xtext as
// [ValidXtext] defines it.
func DecodeXtext(s string) (string, bool) {
	if !ValidXtext(s) {
		return "", false
	}
	if !strings.Contains(s, "+") {
		return s, true
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			c, _ = hexOctet(s[i+1:])
			i += 2
		}
		b.WriteByte(c)
	}
	return b.String(), true
}

// EncodeXtext encodes any octets as RFC 3461, section 4, asks for: with
// upper-case digits, and with "=" encoded.
func EncodeXtext(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if isGraphic(c) && c != '+' && c != '=' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('+')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&0xf])
	}
	return b.String()
}

// ValidEnvelopeID reports whether s can be the value of ENVID: xtext that decodes
// to 1 to 100 printable ASCII characters, space included (RFC 3461, section 4.4).
// Nothing else may become the value of Original-Envelope-Id (RFC 3464, section 2.2.1).
func ValidEnvelopeID(s string) bool {
	if len(s) > 3*maxEnvelopeID {
		return false
	}
	id, ok := DecodeXtext(s)
	if !ok || id == "" || len(id) > maxEnvelopeID {
		return false
	}
	for i := range len(id) {
		if id[i] != ' ' && !isGraphic(id[i]) {
			return false
		}
	}
	return true
}

// isGraphic reports whether c is a visible ASCII character.
func isGraphic(c byte) bool { return c > ' ' && c <= '~' }

// hexOctet reads two hexadecimal digits of either case from the start of s.
func hexOctet(s string) (byte, bool) {
	if len(s) < 2 {
		return 0, false
	}
	high, ok1 := hexDigit(s[0])
	low, ok2 := hexDigit(s[1])
	return high<<4 | low, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
