package message

import "strings"

// Kinds of tokens; the others are their own character.
const (
	tokenEnd     = 0
	tokenAtom    = 'a' // a run of atext, dots and bytes beyond US-ASCII
	tokenQuoted  = '"'
	tokenLiteral = '['
)

type token struct {
	kind       byte
	start, end int
}

// A lexer cuts a field value into tokens. White space, folding and comments
// stand between them.
type lexer struct {
	b   []byte
	off int
}

func (l *lexer) next() (token, error) {
	if err := l.skip(); err != nil {
		return token{}, err
	}
	start := l.off
	if start == len(l.b) {
		return token{tokenEnd, start, start}, nil
	}
	switch c := l.b[start]; c {
	case ',', ';', ':', '@', '<', '>':
		l.off++
		return token{c, start, l.off}, nil
	case '"':
		err := l.delimited('"')
		return token{tokenQuoted, start, l.off}, err
	case '[':
		err := l.delimited(']')
		return token{tokenLiteral, start, l.off}, err
	}
	for l.off < len(l.b) && isAtom(l.b[l.off]) {
		l.off++
	}
	if l.off == start {
		return token{}, ErrAddress // a control character or a stray ) ] \
	}
	return token{tokenAtom, start, l.off}, nil
}

func isAtom(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte(`()<>[]:;@\,"`, c) < 0
}

// skip goes to the next token. The depth of nested comments is counted, so
// that they need no stack.
func (l *lexer) skip() error {
	depth := 0
	for ; l.off < len(l.b); l.off++ {
		switch c := l.b[l.off]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '\\' && depth > 0:
			l.off++
		case depth == 0 && c != ' ' && c != '\t' && c != '\r' && c != '\n':
			return nil
		}
	}
	if depth > 0 || l.off > len(l.b) {
		return ErrAddress
	}
	return nil
}

// delimited goes behind the closing delimiter of a quoted string or a domain
// literal.
func (l *lexer) delimited(closing byte) error {
	for l.off++; l.off < len(l.b); l.off++ {
		switch l.b[l.off] {
		case closing:
			l.off++
			return nil
		case '\\':
			l.off++
		}
	}
	return ErrAddress
}
