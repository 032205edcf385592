package message

import "errors"

// Why the addresses of a field are not known.
var (
	ErrAddress          = errors.New("message: malformed address list")
	ErrTooManyAddresses = errors.New("message: too many addresses in one header field")
)

const (
	maxMailboxes = 10000
	maxAddress   = 1000 // bytes of a local part or a domain; RFC 5321 allows 64 and 255
)

// A Mailbox is an address in a header field. Its display name is left out.
type Mailbox struct {
	Local  string // without quotes and backslashes
	Domain string // as spelt, without comments; empty for an address without one
	End    int    // where the local part ends, counted from the start of the value
}

// Count says how many fields there are of that name.
func (m *Message) Count(name string) int {
	n := 0
	for _, f := range m.fields {
		if f.Is(name) {
			n++
		}
	}
	return n
}

// Mailboxes returns the addresses in all fields of that name, those in groups
// (RFC 6854) included and "<>" left out.
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

// ParseMailboxes reads an address list (RFC 5322, sections 3.4 and 4.4). It is
// generous with display names, which clients write without the quotes that
// they need, and strict with addresses. Time and memory are linear in the
// length of the value, and there are at most 10,000 addresses.
func ParseMailboxes(value []byte) ([]Mailbox, error) {
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

// place is where in an address list the parser stands.
type place uint8

const (
	outside place = iota // of angle brackets: in a display name or a bare address
	inRoute              // behind "<@": an obsolete route, up to its colon
	inside               // of angle brackets
	behind               // them: only comments may follow
)

type parser struct {
	lexer
	list  []Mailbox
	at    place
	group bool
	spec  spec
}

// take moves on by one token.
func (p *parser) take(t token) error {
	switch p.at {
	case inRoute:
		if t.kind == ':' {
			p.at = inside
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
		p.at = behind
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
	case ',', ';', tokenEnd:
		if p.group && t.kind == tokenEnd || !p.group && t.kind == ';' {
			return ErrAddress
		}
		p.group = p.group && t.kind != ';'
		return p.finish()
	case '>':
		return ErrAddress
	}
	if p.at == behind {
		return ErrAddress
	}
	switch t.kind {
	case '<':
		p.spec, p.at = spec{}, inside // what was before it is a display name
	case ':':
		if p.group || p.spec.part == partNone {
			return ErrAddress
		}
		p.spec, p.group = spec{}, true
	default:
		p.spec.add(t, p.b)
	}
	return nil
}

// finish ends an address, if there is one before this separator.
func (p *parser) finish() error {
	s := p.spec
	p.spec, p.at = spec{}, outside
	switch s.part {
	case partNone:
		return nil
	case partLocal, partDomain:
		p.list = append(p.list, Mailbox{Local: string(s.local), Domain: string(s.domain), End: s.end})
		return nil
	}
	return ErrAddress
}

// part is how far an address has come.
type part uint8

const (
	partNone part = iota
	partLocal
	partAt
	partDomain
	partBad // something that is no address, perhaps a display name
)

// A spec gathers an addr-spec (RFC 5322, section 3.4.1).
type spec struct {
	part          part
	local, domain []byte
	end           int  // of the local part, in the value
	dot           bool // the token before ends in a dot
}

// add takes a token. Words belong together only with a dot between them, which
// may have blanks and comments around it (section 4.4).
func (s *spec) add(t token, b []byte) {
	raw := b[t.start:t.end]
	joins := s.dot || raw[0] == '.'
	word := t.kind == tokenAtom || t.kind == tokenQuoted
	switch {
	case t.kind == '@' && s.part == partLocal:
		s.part = partAt
	case s.part == partNone && word, s.part == partLocal && word && joins:
		s.part, s.end = partLocal, t.end
		s.local = appendText(s.local, t, raw)
	case s.part == partAt && (t.kind == tokenAtom || t.kind == tokenLiteral),
		s.part == partDomain && t.kind == tokenAtom && joins:
		s.part = partDomain
		s.domain = appendText(s.domain, t, raw)
	default:
		s.part = partBad
	}
	if s.part == partBad || len(s.local) > maxAddress || len(s.domain) > maxAddress {
		*s = spec{part: partBad}
	}
	s.dot = t.kind == tokenAtom && raw[len(raw)-1] == '.'
}

// appendText appends what a token means.
func appendText(to []byte, t token, raw []byte) []byte {
	if t.kind != tokenQuoted || len(raw) > maxAddress {
		return append(to, raw...)
	}
	raw = raw[1 : len(raw)-1]
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\r' || raw[i] == '\n' { // folding means nothing
			continue
		}
		if raw[i] == '\\' {
			i++
		}
		to = append(to, raw[i])
	}
	return to
}
