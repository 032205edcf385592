package policy

import (
	"net/netip"
	"strings"

	"golang.org/x/net/idna"

	"postern/internal/text"
)

// splitAddress cuts an address at its last "@". Without one there is no
// domain.
func splitAddress(address string) (local, domain string) {
	i := strings.LastIndexByte(address, '@')
	if i < 0 {
		return address, ""
	}
	return address[:i], address[i+1:]
}

// isLiteral tells whether a domain is an address literal (RFC 5321, section
// 4.1.3), well formed or not.
func isLiteral(domain string) bool {
	return strings.HasPrefix(domain, "[") && strings.HasSuffix(domain, "]")
}

// asciiDomain returns the one form in which domains are compared and looked
// up: A-labels (RFC 5891), lower case, without the final dot. ok is false for
// what is no domain name.
func asciiDomain(domain string) (name string, ok bool) {
	domain = withoutFinalDot(domain)
	if !text.IsASCII(domain) {
		var err error
		if domain, err = idna.Lookup.ToASCII(domain); err != nil {
			return "", false
		}
	}
	return strings.ToLower(domain), validHostname(domain)
}

// withoutFinalDot takes the dot of "example.org." off, but leaves "." and
// "example.org.." as wrong as they are.
func withoutFinalDot(name string) string {
	cut, had := strings.CutSuffix(name, ".")
	if !had || cut == "" || strings.HasSuffix(cut, ".") {
		return name
	}
	return cut
}

const (
	maxHostname = 255
	maxLabel    = 63
)

// validHostname checks the syntax of RFC 1123, section 2.1, with Postfix's
// liberties: an underscore is a letter, and one label is enough. A name of
// digits and dots only is an address, not a name.
func validHostname(name string) bool {
	if name == "" || len(name) > maxHostname || strings.Trim(name, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !validLabel(label) {
			return false
		}
	}
	return true
}

func validLabel(label string) bool {
	if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for i := range len(label) {
		switch c := label[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// validHostaddr tells whether s is a bare IPv4 or IPv6 address.
func validHostaddr(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Zone() == ""
}

// validLiteral checks an address literal: an IPv4 address, or "IPv6:" and an
// IPv6 address, in brackets (RFC 5321, section 4.1.3).
func validLiteral(literal string) bool {
	if !isLiteral(literal) {
		return false
	}
	const tag = "IPv6:"
	s := literal[1 : len(literal)-1]
	want6 := len(s) > len(tag) && strings.EqualFold(s[:len(tag)], tag)
	if want6 {
		s = s[len(tag):]
	}
	return validHostaddr(s) && strings.Contains(s, ":") == want6
}
