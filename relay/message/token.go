package message

import (
	"bytes"
	"strings"
)

// Kinds of tokens. The kind of any other token is its only character.
const (
	tokenEnd     = 0
	tokenAtom    = 'a' // a run of atext, dots and bytes above 0x7f
	tokenEncoded = 'e' // an encoded word (RFC 2047, section 2)
	tokenQuoted  = '"'
	tokenLiteral = '['
)

type token struct {
	kind       byte
	start, end int
}

// A lexer cuts a field value into tokens. It skips white space, folding and
// comments.
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
	if n := encodedWord(l.b[start:]); n > 0 {
		l.off += n
		return token{tokenEncoded, start, l.off}, nil
	}
	for l.off < len(l.b) && isAtom(l.b[l.off]) {
		l.off++
	}
	if l.off == start {
		return token{}, ErrAddress // a control character or a stray ) ] \
	}
	return token{tokenAtom, start, l.off}, nil
}

// encodedWord returns the length of the encoded word at the start of b, or 0.
// Clients leave commas, semicolons, colons and blanks in the encoded text, so
// these do not end it. Characters that begin or end an address, a comment or a
// quoted string do: a reader that does not decode the word would see an address
// there. A failed attempt reads up to the fourth "?", so the time for all the
// attempts in a field is linear.
func encodedWord(b []byte) int {
	rest, ok := bytes.CutPrefix(b, []byte("=?"))
	if !ok {
		return 0
	}
	charset := bytes.IndexFunc(rest, func(r rune) bool { return r <= ' ' || r > '~' || r == '?' })
	if charset < 1 || len(rest) < charset+3 || rest[charset] != '?' || rest[charset+2] != '?' ||
		strings.IndexByte("bBqQ", rest[charset+1]) < 0 {
		return 0
	}
	text := rest[charset+3:]
	n := bytes.IndexAny(text, "?@<>()\\\"")
	if n < 0 || !bytes.HasPrefix(text[n:], []byte("?=")) {
		return 0
	}
	for _, c := range text[:n] { // control characters other than blanks and folding
		if c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f {
			return 0
		}
	}
	return len(b) - len(text) + n + len("?=")
}

// skip advances to the next token. It counts the depth of nested comments, so
// it needs no stack.
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

// delimited advances past the closing delimiter of a quoted string or a domain
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
