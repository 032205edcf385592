package server

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-smtp"
)

// Octets, by RFC 5321, section 4.5.3.1.
const (
	maxLocalPart = 64
	maxDomain    = 255
	maxLabel     = 63
)

// wireAddress turns an address as go-smtp hands it on, with the quotes of its
// local part removed, into the form for the wire. What go-smtp lets through
// and RFC 5321, section 4.1.2, does not is refused with bad.
func wireAddress(raw string, smtputf8 bool, bad *smtp.SMTPError) (string, *smtp.SMTPError) {
	at := strings.LastIndexByte(raw, '@')
	if at < 1 || !utf8.ValidString(raw) {
		return "", bad
	}
	local, domain := raw[:at], raw[at+1:]
	if len(local) > maxLocalPart || strings.ContainsFunc(raw, isControl) || !validDomain(domain) {
		return "", bad
	}
	if !smtputf8 && !isASCII(raw) {
		return "", replyNeedUTF8
	}
	return quoteLocalPart(local) + "@" + domain, nil
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// quoteLocalPart quotes a local part that is not a Dot-string.
func quoteLocalPart(local string) string {
	if isDotString(local) {
		return local
	}
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local)
	return `"` + escaped + `"`
}

// isDotString reports whether s is atoms with single dots between them
// (RFC 5322, section 3.2.3; RFC 6532 adds all that is not ASCII).
func isDotString(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" || strings.ContainsFunc(atom, isNotAtext) {
			return false
		}
	}
	return true
}

func isNotAtext(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r >= utf8.RuneSelf:
		return false
	}
	return !strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
}

func validDomain(domain string) bool {
	if len(domain) > maxDomain {
		return false
	}
	if strings.HasPrefix(domain, "[") {
		return validLiteral(domain)
	}
	for label := range strings.SplitSeq(domain, ".") {
		if len(label) == 0 || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, isNotLabel) {
			return false
		}
	}
	return true
}

// isNotLabel allows the underscore, which is in use and which Postfix takes.
func isNotLabel(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r >= utf8.RuneSelf:
		return false
	}
	return r != '-' && r != '_'
}

// validLiteral checks an address literal (RFC 5321, section 4.1.3); general
// ones of other kinds than IPv6 are registered nowhere.
func validLiteral(domain string) bool {
	inner, closed := strings.CutSuffix(domain[1:], "]")
	if !closed {
		return false
	}
	if len(inner) > 5 && strings.EqualFold(inner[:5], "IPv6:") {
		addr, err := netip.ParseAddr(inner[5:])
		return err == nil && addr.Is6() && addr.Zone() == ""
	}
	addr, err := netip.ParseAddr(inner)
	return err == nil && addr.Is4()
}
