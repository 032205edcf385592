package dsn

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"postern/internal/text"
)

// MaxOriginalRecipient is the limit of an ORCPT value in octets: the address
// type, ";" and the encoded address. RFC 3461, section 4, makes room for 500
// characters in the command line.
const MaxOriginalRecipient = 500

// ValidOriginalRecipient reports whether "addrType;address" can be the value of
// ORCPT (RFC 3461, section 4.2).
//
// addrType is an atom, in any case; it need not be a registered type. For the
// type utf-8, address is in one of the forms of RFC 6533, section 3: ASCII with
// \x{HEX} for all other characters, or, if allowUTF8 is true because SMTPUTF8 is
// in force, UTF-8. For every other type it is xtext, of which the octets
// need not be ASCII: Postfix sends "rfc822;b+C3+B6b@example.org" for a UTF-8
// recipient.
//
// A control character is not allowed in the decoded address, whatever its form, as
// it could end a line of a delivery report. A value of more than
// [MaxOriginalRecipient] octets is not valid, and neither is an empty part.
func ValidOriginalRecipient(addrType, address string, allowUTF8 bool) bool {
	if !isAtom(addrType) || address == "" || len(addrType)+1+len(address) > MaxOriginalRecipient {
		return false
	}
	if !allowUTF8 && !text.IsASCII(address) {
		return false
	}
	_, ok := DecodeOriginalRecipient(addrType, address)
	return ok
}

// DecodeOriginalRecipient returns the address that is encoded in an ORCPT value. It
// has no control characters. For the type utf-8 it is valid UTF-8; for every
// other type it may be any other octets. It returns false for an address that is
// not well-formed; length and type are not checked.
func DecodeOriginalRecipient(addrType, address string) (string, bool) {
	if IsUTF8(addrType) {
		return decodeUTF8(address)
	}
	decoded, ok := DecodeXtext(address)
	for i := range len(decoded) {
		if c := decoded[i]; c < ' ' || c == 0x7f {
			return "", false
		}
	}
	return decoded, ok
}

// ASCIIOriginalRecipient returns address in the form for a hop, or a report, without
// SMTPUTF8: address itself if it is ASCII, and else its utf-8-addr-xtext. It returns
// false if there is none within [MaxOriginalRecipient]; the parameter is optional and
// can be left out. The arguments must be valid with allowUTF8.
func ASCIIOriginalRecipient(addrType, address string) (string, bool) {
	if !text.IsASCII(address) {
		decoded, ok := DecodeOriginalRecipient(addrType, address)
		if !ok {
			return "", false
		}
		address = EncodeUTF8(decoded)
	}
	if !ValidOriginalRecipient(addrType, address, false) {
		return "", false
	}
	return address, true
}

// EncodeUTF8 encodes an address of the type utf-8 in ASCII (utf-8-addr-xtext of
// RFC 6533, section 3), the form for a hop without SMTPUTF8. address must be valid
// UTF-8 without control characters.
func EncodeUTF8(address string) string {
	var b strings.Builder
	for _, r := range address {
		if r < utf8.RuneSelf && isQChar(byte(r)) {
			b.WriteByte(byte(r))
			continue
		}
		fmt.Fprintf(&b, `\x{%02X}`, r)
	}
	return b.String()
}

// IsUTF8 reports whether addrType is the type of internationalized addresses
// (RFC 6533, section 3). Address types are not case-sensitive.
func IsUTF8(addrType string) bool { return strings.EqualFold(addrType, "utf-8") }

// decodeUTF8 decodes utf-8-addr-unitext, of which utf-8-addr-xtext is the ASCII
// subset. As in xtext, "=" is accepted.
func decodeUTF8(s string) (string, bool) {
	if !utf8.ValidString(s) {
		return "", false
	}
	var b strings.Builder
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == '\\':
			if r, size = embedded(s); size == 0 {
				return "", false
			}
		case r < utf8.RuneSelf && !isQChar(byte(r)) && r != '=':
			return "", false
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return "", false
		}
		b.WriteRune(r)
		s = s[size:]
	}
	return b.String(), true
}

// embedded reads EmbeddedUnicodeChar of RFC 6533, section 3, from the start of s:
// \x{HEX}, with 2 to 6 digits and no leading zero. In ASCII, only the characters that
// cannot be written as they are may be embedded. size is 0 if there is none.
func embedded(s string) (r rune, size int) {
	rest, ok := strings.CutPrefix(s, `\x{`)
	end := strings.IndexByte(rest[:min(len(rest), 7)], '}')
	if !ok || end < 2 || end > 2 && rest[0] == '0' {
		return 0, 0
	}
	for i := range end {
		digit, ok := hexDigit(rest[i])
		if !ok {
			return 0, 0
		}
		r = r<<4 | rune(digit)
	}
	if !utf8.ValidRune(r) || r < utf8.RuneSelf && isQChar(byte(r)) {
		return 0, 0
	}
	return r, len(`\x{`) + end + len(`}`)
}

// isQChar reports whether c is QCHAR of RFC 6533, section 3.
func isQChar(c byte) bool { return isGraphic(c) && c != '\\' && c != '+' && c != '=' }

// isAtom reports whether s is an atom (RFC 5322, section 3.2.3, without comments).
func isAtom(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isGraphic(c) || strings.IndexByte(`()<>@,;:\".[]`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
