package message

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// The bounds of a header that is read.
const (
	maxHeader = 1 << 20 // bytes of all fields together
	maxFields = 5000
)

// A Field is one header field. Its bytes are never changed.
type Field struct {
	Name string // as spelled in the message, without blanks
	Raw  []byte // the whole field: name, colon, value with its folding, final CRLF
}

// Is reports whether the field has this name, ignoring case.
func (f Field) Is(name string) bool { return strings.EqualFold(f.Name, name) }

// Value returns the bytes between the colon and the final CRLF, blanks and folding
// included.
func (f Field) Value() []byte {
	return bytes.TrimSuffix(f.Raw[bytes.IndexByte(f.Raw, ':')+1:], crlf)
}

// WithValue returns the field with another value and the same spelling of the
// name up to the colon. The value is as Value returns it, and its folding is
// checked as ParseField does.
func (f Field) WithValue(value []byte) (Field, error) {
	colon := bytes.IndexByte(f.Raw, ':') + 1
	return ParseField(bytes.Join([][]byte{f.Raw[:colon], value, crlf}, nil))
}

// NewField makes a field of a name and a value, which may be folded with CRLF
// and a blank.
func NewField(name, value string) (Field, error) {
	return ParseField([]byte(name + ": " + value + "\r\n"))
}

var errField = errors.New("message: not exactly one well-formed header field")

// ParseField parses the bytes of one whole field, final CRLF included. It returns an error
// for anything that would be more or less than one field in a message.
func ParseField(raw []byte) (Field, error) {
	name := fieldName(raw)
	if name == "" || !bytes.HasSuffix(raw, crlf) || bytes.IndexByte(raw, 0) >= 0 {
		return Field{}, fmt.Errorf("%w: %.40q", errField, raw)
	}
	for rest := raw[:len(raw)-2]; ; {
		i := bytes.IndexAny(rest, "\r\n")
		if i < 0 {
			return Field{Name: name, Raw: raw}, nil
		}
		if !bytes.HasPrefix(rest[i:], crlf) || i+2 == len(rest) || !isBlank(rest[i+2]) {
			return Field{}, fmt.Errorf("%w: %.40q", errField, raw)
		}
		rest = rest[i+2:]
	}
}

// fieldName returns the name of the field that begins with line, or "" if no field does.
// The rule is that of Postfix's cleanup: printable US-ASCII without blanks, optional blanks
// (RFC 5322, section 4.5), and a colon.
func fieldName(line []byte) string {
	n := 0
	for n < len(line) && line[n] > ' ' && line[n] < 0x7f && line[n] != ':' {
		n++
	}
	end := n
	for end < len(line) && isBlank(line[end]) {
		end++
	}
	if n == 0 || end == len(line) || line[end] != ':' {
		return ""
	}
	return string(line[:n])
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// parsed is the header at the beginning of a message.
type parsed struct {
	fields []Field
	head   []byte // the fields and the empty line as in the message; nil if they were changed
	body   int64  // offset of the body
}

// readHeader parses the header at the beginning of s and reserves the memory that it
// needs: for itself, if s is a file, and for the two views that the server makes of a
// message, the completed one and the signed one. It reads about twice the header at most.
func readHeader(s *store) (*parsed, error) {
	var h *parsed
	var block []byte
	for n := int64(16 << 10); h == nil; n *= 2 {
		var err error
		if block, err = s.first(n); err != nil {
			return nil, err
		}
		if h, err = split(block, int64(len(block)) == s.size); err != nil {
			return nil, err
		}
	}
	copies := int64(2)
	if s.file != nil {
		copies++
	}
	if err := s.reserve(copies * h.body); err != nil {
		return nil, err
	}
	if s.file != nil {
		// block may be much larger than the header.
		return split(bytes.Clone(block[:h.body]), true)
	}
	return h, nil
}

// split parses the header at the beginning of b, which is the whole message or only its
// first part; nil means that more of it is needed.
//
// As in Postfix's cleanup, a line that is neither a field nor the continuation
// of one ends the header, and the body begins with it.
func split(b []byte, whole bool) (*parsed, error) {
	h := &parsed{}
	off, asIs := 0, true
	for {
		n := fieldLen(b[off:], whole)
		if n < 0 && len(b) <= maxHeader {
			return nil, nil
		}
		if n < 0 || off > maxHeader || len(h.fields) > maxFields {
			return nil, ErrHeaderTooLarge
		}
		raw := b[off : off+n : off+n]
		if name := fieldName(raw); name != "" {
			h.fields = append(h.fields, Field{Name: name, Raw: raw})
		} else if field, ok := mailboxLine(raw); ok && off == 0 {
			h.fields = append(h.fields, field)
			asIs = false
		} else {
			break
		}
		off += n
	}
	h.body = int64(off)
	if bytes.HasPrefix(b[off:], crlf) {
		h.body += 2
		if asIs {
			h.head = b[:h.body:h.body]
		}
	}
	return h, nil
}

// fieldLen returns the length of the first line of b with the lines that
// continue it, or -1 if b is not whole and ends before their end is known. It
// is 0 at the end of the message, and 2 at an empty line.
func fieldLen(b []byte, whole bool) int {
	for n := 0; ; {
		i := bytes.IndexByte(b[n:], '\n')
		if i < 0 {
			if whole {
				return len(b) // 0, since every line of a message has an end
			}
			return -1
		}
		n += i + 1
		switch {
		case n == 2:
			return n
		case n == len(b) && !whole:
			return -1
		case n == len(b) || !isBlank(b[n]):
			return n
		}
	}
}

// mailboxLine turns the line that begins a message in an mbox file into a field, as
// Postfix's smtpd does. Without this, a client that sends such a file unchanged would lose
// its header. It returns false for any other line.
func mailboxLine(line []byte) (Field, bool) {
	const name = "X-Mailbox-Line"
	from := bytes.TrimLeft(line, ">")
	if len(from) <= 5 || !bytes.EqualFold(from[:5], []byte("From ")) {
		return Field{}, false
	}
	return Field{Name: name, Raw: append([]byte(name+": "), line...)}, true
}

// Edit is a change of a header, made in one pass.
type Edit struct {
	Top []Field // above everything else, in this order: trace fields, signatures
	// Each returns the field that replaces a field, and false to remove it. Nil
	// keeps all fields.
	Each   func(Field) (Field, bool)
	Bottom []Field // below the last field
}

// Edit returns a view of the message with an edited header.
func (m *Message) Edit(e Edit) *Message {
	out := make([]Field, 0, len(e.Top)+len(m.fields)+len(e.Bottom))
	out = append(out, e.Top...)
	for _, f := range m.fields {
		keep := true
		if e.Each != nil {
			f, keep = e.Each(f)
		}
		if keep {
			out = append(out, f)
		}
	}
	return view(m.stored, append(out, e.Bottom...), nil)
}
