package policy

import (
	"net/netip"
	"strings"

	"golang.org/x/net/idna"

	"postern/internal/text"
)

// splitAddress splits an address at its last "@". Without one there is no domain.
func splitAddress(address string) (local, domain string) {
	i := strings.LastIndexByte(address, '@')
	if i < 0 {
		return address, ""
	}
	return address[:i], address[i+1:]
}

// fullyQualified reports whether an address has a domain of at least two labels (RFC 6409,
// section 4.2), or an address literal.
func fullyQualified(address string) bool {
	_, domain := splitAddress(address)
	if isLiteral(domain) {
		return true
	}
	name, ok := asciiDomain(domain)
	return ok && strings.Contains(name, ".")
}

// unquoteLocal returns the value of a quoted string (RFC 5321, section 4.1.2), or the local
// part itself if it is not quoted.
func unquoteLocal(local string) string {
	if len(local) < 2 || local[0] != '"' || local[len(local)-1] != '"' {
		return local
	}
	quoted := local[1 : len(local)-1]
	var b strings.Builder
	for i := 0; i < len(quoted); i++ {
		if quoted[i] == '\\' && i+1 < len(quoted) {
			i++
		}
		b.WriteByte(quoted[i])
	}
	return b.String()
}

// quoteLocal is the reverse of unquoteLocal. A dot-atom is not quoted.
func quoteLocal(local string) string {
	plain := local != "" && !strings.HasPrefix(local, ".") && !strings.HasSuffix(local, ".") && !strings.Contains(local, "..")
	for i := range len(local) {
		if local[i] <= ' ' || local[i] == 0x7f || strings.IndexByte(`"\()<>@,;:[]`, local[i]) >= 0 {
			plain = false
		}
	}
	if plain {
		return local
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local) + `"`
}

// isLiteral reports whether a domain is an address literal (RFC 5321, section 4.1.3), valid
// or not.
func isLiteral(domain string) bool {
	return strings.HasPrefix(domain, "[") && strings.HasSuffix(domain, "]")
}

// validLiteral checks an address literal: an IPv4 address, or "IPv6:" and an IPv6 address, in
// brackets (RFC 5321, section 4.1.3).
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

// validHostaddr reports whether s is an IPv4 or IPv6 address without brackets.
func validHostaddr(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Zone() == ""
}

// asciiDomain returns the form in which domains are compared and looked up: A-labels (RFC
// 5891), lower case, without the final dot. ok is false for what is no domain name.
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

// withoutFinalDot removes the dot of "example.org.", but leaves the invalid names "." and
// "example.org.." as they are.
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

// validHostname checks the syntax of RFC 1123, section 2.1, with Postfix's exceptions: an
// underscore is a letter, and one label is enough. A name of digits and dots only is an
// address, not a name.
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
