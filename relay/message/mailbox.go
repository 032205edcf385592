package message

import (
	"bytes"
	"errors"
)

// Errors of ParseMailboxes.
var (
	ErrAddress          = errors.New("message: malformed address list")
	ErrTooManyAddresses = errors.New("message: too many addresses in one header field")
)

const (
	maxMailboxes = 10000
	maxAddress   = 1000 // bytes of a local part or a domain; RFC 5321 allows 64 and 255
)

// A Mailbox is an address in a header field, without its display name.
type Mailbox struct {
	Local  string // without quotes and backslashes
	Domain string // as written, without comments; empty for an address without one
	End    int    // offset in the value at which the local part ends

	// Incomplete means that only a domain is missing: the local part is one
	// ASCII dot-atom (RFC 5322, section 3.2.3), not an encoded word (RFC 2047),
	// and the address has neither a domain nor a source route.
	Incomplete bool
}

// Mailboxes returns the addresses in all fields with that name. It includes
// the members of groups (RFC 6854) and leaves out "<>".
func (m *Message) Mailboxes(name string) ([]Mailbox, error) {
	var all []Mailbox
	for _, f := range m.fields {
		if !f.Is(name) {
			continue
		}
		list, err := ParseMailboxes(f.Value())
		if err != nil {
			return nil, err
		}
		if all = append(all, list...); len(all) > maxMailboxes {
			return nil, ErrTooManyAddresses
		}
	}
	return all, nil
}

// ParseMailboxes parses an address list (RFC 5322, sections 3.4 and 4.4). It is
// lenient with display names, because clients omit the quotes, and strict with
// addresses. A word directly before ", PHRASE <ADDRESS>" counts as the first part of
// that display name ("Smith, John <john@example.org>") and is not in the result. Time
// and memory are linear in the length of the value, and the result has at most 10,000
// addresses. The error is ErrAddress or ErrTooManyAddresses.
func ParseMailboxes(value []byte) ([]Mailbox, error) {
	if one, ok := soleMailbox(value); ok {
		return []Mailbox{one}, nil
	}
	p := parser{lexer: lexer{b: value}}
	for {
		t, err := p.next()
		if err != nil {
			return nil, err
		}
		if err := p.take(t); err != nil {
			return nil, err
		}
		if len(p.list) > maxMailboxes {
			return nil, ErrTooManyAddresses
		}
		if t.kind == tokenEnd {
			return p.list, nil
		}
	}
}

// soleMailbox returns the address in a value of the usual form: one address of two
// dot-atoms, alone or in angle brackets, with a display name or without, and no
// comment, folding or escape. The parser returns the same for such a value, at several
// times the cost. For every other value, valid or not, ok is false.
func soleMailbox(value []byte) (sole Mailbox, ok bool) {
	begin, end := len(value)-len(bytes.TrimLeft(value, " \t")), len(bytes.TrimRight(value, " \t"))
	if open := bytes.LastIndexByte(value, '<'); open >= 0 {
		name := value[:open]
		if quoted, ok := bytes.CutPrefix(bytes.Trim(name, " \t"), []byte{'"'}); ok {
			name, ok = bytes.CutSuffix(quoted, []byte{'"'})
			if !ok || bytes.ContainsAny(name, `"\`) {
				return Mailbox{}, false
			}
		} else {
			for _, c := range name {
				if c != ' ' && c != '\t' && !isAtom(c) {
					return Mailbox{}, false
				}
			}
		}
		if begin, end = open+1, end-1; value[end] != '>' {
			return Mailbox{}, false
		}
	}
	local, domain, found := bytes.Cut(value[min(begin, end):end], []byte{'@'})
	if !found || !isDotAtom(local) || !isDotAtom(domain) || max(len(local), len(domain)) > maxAddress {
		return Mailbox{}, false
	}
	return Mailbox{Local: string(local), Domain: string(domain), End: begin + len(local)}, true
}

// place is the parser's position relative to angle brackets.
type place uint8

const (
	outside      place = iota // in a display name or an address without brackets
	inRoute                   // after "<@": an obsolete route, up to its colon
	inside                    // in the brackets
	afterBracket              // after them: only comments may follow
)

type parser struct {
	lexer
	list  []Mailbox
	at    place
	group bool
	spec  spec
	named bool // the brackets of this entry follow a phrase
	route bool // they begin with a source route
	name  splitName
}

// A splitName is the part of the list that is a display name with commas and without
// quotes, if "PHRASE <ADDRESS>" follows.
type splitName struct {
	from     int  // index in the list of its first word; the list's length if there is none
	certain  bool // one part cannot be an address, so all parts after it belong to the name
	required bool // one part is several words: without a name the list is malformed
}

// take advances by one token.
func (p *parser) take(t token) error {
	switch p.at {
	case inRoute:
		if t.kind == ':' {
			p.at, p.route = inside, true
		} else if t.kind == '<' || t.kind == '>' || t.kind == ';' || t.kind == tokenEnd {
			return ErrAddress
		}
		return nil
	case inside:
		return p.takeInside(t)
	default:
		return p.takeOutside(t)
	}
}

func (p *parser) takeInside(t token) error {
	switch t.kind {
	case '>':
		p.at = afterBracket
		return nil
	case ',', ';', ':', '<', tokenEnd:
		return ErrAddress
	case '@':
		if p.spec.part == partNone {
			p.at = inRoute
			return nil
		}
	}
	p.spec.add(t, p.b)
	return nil
}

func (p *parser) takeOutside(t token) error {
	switch t.kind {
	case ',':
		return p.finish()
	case ';', tokenEnd:
		if p.group != (t.kind == ';') {
			return ErrAddress
		}
		p.group = false
		if err := p.finish(); err != nil {
			return err
		}
		return p.endName()
	case '>':
		return ErrAddress
	}
	if p.at == afterBracket {
		return ErrAddress
	}
	switch t.kind {
	case '<':
		p.named = p.spec.part != partNone
		p.spec, p.at = spec{}, inside
	case ':':
		if p.group || p.spec.part == partNone {
			return ErrAddress
		}
		p.spec, p.group = spec{}, true
		return p.endName()
	default:
		p.spec.add(t, p.b)
	}
	return nil
}

// finish ends one entry of the list, which may be empty.
func (p *parser) finish() error {
	s, bracket, named, route := p.spec, p.at == afterBracket, p.named, p.route
	p.spec, p.at, p.named, p.route = spec{}, outside, false, false
	if named {
		p.list = p.list[:p.name.from]
		p.name = splitName{from: len(p.list)}
	}
	switch {
	case s.part == partNone && !bracket:
		return nil
	case s.part == partPhrase && !bracket:
		p.name.certain, p.name.required = true, true
		return nil
	case s.part == partPhrase, s.part == partAt, s.part == partBad:
		return ErrAddress
	}
	incomplete := s.plain && s.part == partLocal && !route
	if s.part == partLocal && !bracket {
		// Of several words that can be addresses, only the last one starts a name.
		if !incomplete {
			p.name.certain = true
		} else if !p.name.certain {
			p.name.from = len(p.list)
		}
	} else if err := p.endName(); err != nil {
		return err
	}
	if s.part != partNone {
		p.list = append(p.list, Mailbox{string(s.local), string(s.domain), s.end, incomplete})
		if s.part == partDomain || bracket {
			p.name.from = len(p.list)
		}
	}
	return nil
}

// endName ends the name where no "PHRASE <ADDRESS>" can follow any more.
func (p *parser) endName() error {
	if p.name.required {
		return ErrAddress
	}
	p.name = splitName{from: len(p.list)}
	return nil
}

// part is how much of an address has been read.
type part uint8

const (
	partNone part = iota
	partLocal
	partAt
	partDomain
	partPhrase // not an address and without "@": a display name
	partBad    // not an address
)

// A spec collects an addr-spec (RFC 5322, section 3.4.1).
type spec struct {
	part          part
	local, domain []byte
	end           int  // of the local part, in the value
	plain         bool // the local part is one dot-atom
	dot           bool // the previous token ends in a dot
}

// add takes a token. Words belong together only with a dot between them, which
// may have blanks and comments around it (section 4.4).
func (s *spec) add(t token, b []byte) {
	raw := b[t.start:t.end]
	joins := s.dot || raw[0] == '.'
	word := t.kind == tokenAtom || t.kind == tokenQuoted || t.kind == tokenEncoded
	switch {
	case t.kind == '@' && s.part == partLocal:
		s.part = partAt
	case s.part == partNone && word, s.part == partLocal && word && joins:
		s.plain = s.part == partNone && t.kind == tokenAtom && isDotAtom(raw)
		s.part, s.end = partLocal, t.end
		s.local = appendText(s.local, t, raw)
	case s.part == partAt && (t.kind == tokenAtom || t.kind == tokenLiteral),
		s.part == partDomain && t.kind == tokenAtom && joins:
		s.part = partDomain
		s.domain = appendText(s.domain, t, raw)
	case t.kind != '@' && (s.part == partNone || s.part == partLocal || s.part == partPhrase):
		s.part = partPhrase
	default:
		s.part = partBad
	}
	if s.part == partLocal && len(s.local) > maxAddress {
		s.part = partPhrase
	}
	if len(s.domain) > maxAddress {
		s.part = partBad
	}
	if s.part == partPhrase || s.part == partBad {
		*s = spec{part: s.part}
	}
	s.dot = t.kind == tokenAtom && raw[len(raw)-1] == '.'
}

// isDotAtom reports whether word is an ASCII dot-atom that no decoder takes for the
// start or the end of an encoded word.
func isDotAtom(word []byte) bool {
	for i, c := range word {
		if c >= 0x80 || !isAtom(c) || c == '.' && (i == 0 || word[i-1] == '.') {
			return false
		}
	}
	return len(word) > 0 && word[len(word)-1] != '.' && !bytes.HasPrefix(word, []byte("=?")) && !bytes.HasSuffix(word, []byte("?="))
}

// isAtom reports whether c is in atext (RFC 5322, section 3.2.3), a dot, or above 0x7f.
func isAtom(c byte) bool {
	switch c {
	case '(', ')', '<', '>', '[', ']', ':', ';', '@', '\\', ',', '"', 0x7f:
		return false
	}
	return c > ' '
}

// appendText appends the meaning of a token.
func appendText(to []byte, t token, raw []byte) []byte {
	if t.kind != tokenQuoted || len(raw) > maxAddress {
		return append(to, raw...)
	}
	raw = raw[1 : len(raw)-1]
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\r' || raw[i] == '\n' { // folding has no meaning
			continue
		}
		if raw[i] == '\\' {
			i++
		}
		to = append(to, raw[i])
	}
	return to
}
