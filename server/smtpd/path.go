package smtpd

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"postern/internal/text"
)

// The limits of addresses, in octets.
const (
	// maxAddress is for the whole address. RFC 5321, section 4.5.3.1, names sizes
	// that must be supported, not maxima: VERP senders and reply tokens have local
	// parts of far more than 64 octets.
	maxAddress = 1000
	maxDomain  = 255 // RFC 5321, section 4.5.3.1.2
	maxLabel   = 63  // RFC 1035, section 2.3.4
)

// A Path is the address of a MAIL or RCPT command. The zero value is the null
// reverse-path "<>".
type Path struct {
	Local  string // as it goes on the wire: quoted where it must be
	Domain string // without a trailing dot; empty if the client sent none
}

// IsNull reports whether the path is "<>".
func (p Path) IsNull() bool { return p == Path{} }

// String is the address without brackets, as the client meant it: without a
// domain if it sent none.
func (p Path) String() string {
	if p.Domain == "" {
		return p.Local
	}
	return p.Local + "@" + p.Domain
}

// cutPath splits the argument of MAIL or RCPT, without FROM: or TO:, into the path
// and the parameters. The path ends at the first blank outside brackets and quotes.
func cutPath(s string) (path, parameters string) {
	s = strings.TrimLeft(s, blanks)
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '<':
			depth++
		case c == '>':
			depth--
		case depth <= 0 && (c == ' ' || c == '\t'):
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// parsePath reads a path as leniently as Postfix does with
// strict_rfc821_envelopes = no: blanks around the parts of an address, no
// brackets, a display name before brackets, comments, a source route (which is
// dropped), a trailing dot, and no domain. It refuses, unlike Postfix, an empty
// local part and an unquoted "@" or ":" in a local part. testdata/paths.txt has
// examples with Postfix's results.
//
// The result has at most 1,000 octets and no control characters.
func parsePath(s string) (Path, bool) {
	// The form that nearly all clients send, "<>" and "<dot-string@domain>" in ASCII, is read
	// without taking it apart.
	if len(s) < 2 || len(s) > len("<>")+maxAddress || s[0] != '<' || s[len(s)-1] != '>' {
		return lenientPath(s)
	}
	local, domain, found := strings.Cut(s[1:len(s)-1], "@")
	if !found && len(s) == len("<>") {
		return Path{}, true
	}
	previous := byte('.')
	for i := range len(local) {
		c := local[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '.' && previous != '.', c == '-' && i > 0, c != '-' && strings.IndexByte(atextSpecials, c) >= 0:
		default:
			return lenientPath(s)
		}
		previous = c
	}
	if previous == '.' || !text.IsASCII(domain) || !validDomain(domain) {
		return lenientPath(s)
	}
	return Path{Local: local, Domain: domain}, true
}

// atextSpecials are the characters of an atom beside letters and digits (RFC 5322,
// section 3.2.3).
const atextSpecials = "!#$%&'*+-/=?^_`{|}~"

// lenientPath reads every other form of a path.
func lenientPath(s string) (Path, bool) {
	tokens, ok := tokenize(s)
	if !ok {
		return Path{}, false
	}
	tokens, ok = unwrap(tokens)
	switch {
	case !ok:
		return Path{}, false
	case len(tokens) == 0: // "<>"
		return Path{}, true
	}
	tokens = dropRoute(tokens)
	p, ok := mailbox(tokens)
	if ok && p.Domain == "" && len(tokens) == 1 && strings.Contains(tokens[0].text, "@") {
		// <"user@example.org">: the client has quoted the whole address.
		if tokens, ok = tokenize(tokens[0].text); ok {
			p, ok = mailbox(tokens)
		}
	}
	return p, ok && len(p.Local)+len("@")+len(p.Domain) <= maxAddress
}

// A pathToken is a lexical part of an address (RFC 5322, section 3.2). Blanks and
// comments are none.
type pathToken struct {
	kind tokenKind
	text string // of words: without quotes and backslashes; of literals: with brackets
}

type tokenKind uint8

const (
	word       tokenKind = iota // an atom
	quotedWord                  // a quoted string
	literal                     // [...]
	special                     // one of < > @ . , : ;
)

func (t pathToken) is(text string) bool { return t.kind == special && t.text == text }

// tokenize takes s apart. It fails for control characters other than a blank, for
// what is not UTF-8, and for quotes, brackets and comments that are not closed.
func tokenize(s string) (tokens []pathToken, ok bool) {
	if !utf8.ValidString(s) || len(s) > 2*maxAddress {
		return nil, false
	}
	for s != "" {
		var t pathToken
		switch c := s[0]; {
		case c == ' ' || c == '\t' || c == '\r':
			s = s[1:]
			continue
		case c == '(':
			if s, ok = skipComment(s); !ok {
				return nil, false
			}
			continue
		case c == '"':
			t.kind = quotedWord
			t.text, s, ok = cutQuoted(s[1:])
		case c == '[':
			t.kind = literal
			t.text, s, ok = cutLiteral(s)
		case strings.IndexByte("<>@.,:;", c) >= 0:
			t.kind, t.text, s, ok = special, s[:1], s[1:], true
		default:
			t.text, s, ok = cutAtom(s)
		}
		if !ok || strings.ContainsFunc(t.text, isControl) {
			return nil, false
		}
		tokens = append(tokens, t)
	}
	return tokens, true
}

// isControl reports whether r is in C0, DEL or C1.
func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

// skipComment returns what comes after the comment, which may be nested, that s
// begins with.
func skipComment(s string) (rest string, ok bool) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return s[i+1:], true
			}
		}
	}
	return "", false
}

func cutQuoted(s string) (text, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

func cutLiteral(s string) (text, rest string, ok bool) {
	end := strings.IndexByte(s, ']')
	if end < 0 {
		return "", "", false
	}
	return s[:end+1], s[end+1:], true
}

// cutAtom takes an atom, in which a backslash may quote a character.
func cutAtom(s string) (text, rest string, ok bool) {
	var b strings.Builder
	i := 0
	for ; i < len(s) && strings.IndexByte("<>@.,:;[]()\" \t\r", s[i]) < 0; i++ {
		if s[i] == '\\' {
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), s[i:], i > 0
}

// unwrap returns the tokens of the address: those in the innermost brackets, or
// all if there are none. A display name before the brackets is ignored, and so is
// punctuation after them.
func unwrap(tokens []pathToken) ([]pathToken, bool) {
	begin, end, opened, closed := -1, len(tokens), 0, 0
	for i, t := range tokens {
		switch {
		case t.is(">"):
			closed++
			end = min(end, i)
		case end < i && !t.is(",") && !t.is(";"):
			return nil, false // after the brackets
		case t.is("<"):
			opened++
			begin = i
		}
	}
	if opened > closed {
		return nil, false
	}
	inner := tokens[begin+1 : end]
	if len(inner) == 0 && begin < 0 {
		return nil, false // nothing, or a comment alone
	}
	for _, t := range inner {
		if t.is(";") || t.is(",") && !inner[0].is("@") {
			return nil, false // several addresses
		}
	}
	return inner, true
}

// dropRoute drops a source route, "@a,@b:" (RFC 5321, section 4.1.1.3 and appendix C).
func dropRoute(tokens []pathToken) []pathToken {
	if !tokens[0].is("@") {
		return tokens
	}
	for i, t := range tokens {
		if t.is(":") {
			return tokens[i+1:]
		}
	}
	return tokens
}

// mailbox reads a local part and, if there is one, a domain.
func mailbox(tokens []pathToken) (p Path, ok bool) {
	at := len(tokens)
	for i, t := range tokens {
		if t.is("@") {
			at = i
			break
		}
	}
	local, ok := joinWords(tokens[:at], true)
	// A leading "-" could become an option of a command (Postfix's allow_min_user).
	if !ok || local == "" || local[0] == '-' {
		return Path{}, false
	}
	p.Local = quoteLocalPart(local)
	if at == len(tokens) {
		return p, true
	}
	p.Domain, ok = domainOf(tokens[at+1:])
	return p, ok
}

// joinWords joins words and dots. Two words without a dot between them are an error.
func joinWords(tokens []pathToken, quoted bool) (string, bool) {
	var b strings.Builder
	afterWord := false
	for _, t := range tokens {
		isWord := t.kind == word || quoted && t.kind == quotedWord
		if isWord == afterWord && isWord || !isWord && !t.is(".") {
			return "", false
		}
		afterWord = isWord
		b.WriteString(t.text)
	}
	return b.String(), true
}

// domainOf reads a domain or an address literal. One trailing dot is dropped.
func domainOf(tokens []pathToken) (string, bool) {
	if n := len(tokens); n > 1 && tokens[n-1].is(".") {
		tokens = tokens[:n-1]
	}
	if len(tokens) == 1 && tokens[0].kind == literal {
		return tokens[0].text, validLiteral(tokens[0].text)
	}
	domain, ok := joinWords(tokens, false)
	return domain, ok && validDomain(domain)
}

// validDomain checks a host name. Underscores are in use, and all characters beyond
// ASCII count as letters (RFC 6531, section 3.3); a name of digits and dots alone is an
// address that lacks its brackets.
func validDomain(domain string) bool {
	label, numeric := 0, true // octets of the label so far
	for i := range len(domain) {
		c := domain[i]
		switch {
		case c >= '0' && c <= '9':
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c >= utf8.RuneSelf:
			numeric = false
		case c == '-' && label > 0:
			numeric = false
		case c == '.' && label > 0 && domain[i-1] != '-':
			label = -1
		default:
			return false
		}
		if label++; label > maxLabel {
			return false
		}
	}
	return label > 0 && !numeric && len(domain) <= maxDomain && domain[len(domain)-1] != '-'
}

// validLiteral checks an address literal (RFC 5321, section 4.1.3). No tag but IPv6
// is registered.
func validLiteral(text string) bool {
	inner := text[1 : len(text)-1]
	if len(inner) > len("IPv6:") && strings.EqualFold(inner[:len("IPv6:")], "IPv6:") {
		addr, err := netip.ParseAddr(inner[len("IPv6:"):])
		return err == nil && addr.Is6() && addr.Zone() == ""
	}
	addr, err := netip.ParseAddr(inner)
	return err == nil && addr.Is4()
}

// quoteLocalPart quotes a local part that is not a Dot-string (RFC 5321, section 4.1.2).
func quoteLocalPart(local string) string {
	// RFC 5322, section 3.2.3, with RFC 6532.
	isNotAtext := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r >= utf8.RuneSelf) &&
			!strings.ContainsRune(atextSpecials, r)
	}
	for atom := range strings.SplitSeq(local, ".") {
		if atom == "" || strings.ContainsFunc(atom, isNotAtext) {
			return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local) + `"`
		}
	}
	return local
}
