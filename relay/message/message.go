// Package message stores a message while it passes through the server: its header can
// be inspected and edited, and its body can be read any number of times.
//
// A message arrives through a [Writer] from a [Stage]. A small message stays in
// memory; a larger one is written to a temporary file without a name, which the kernel
// removes however the process ends. The bytes of a staged message are clean (CRLF line
// ends only, no NUL) and not dot-stuffed.
//
// A [Message] never changes. An edit of the header is a new view of the same
// body: see [Message.Edit] and [Message.WithHeader]. Every field that an edit
// does not name keeps its bytes.
//
// The package parses header fields (RFC 5322, section 2.2) and the addresses in them
// (section 3.4, RFC 6854). It does not parse MIME and encodings, and the fix-ups of a
// submission server are in package server. A new kind of edit is a function that fills in
// an [Edit]; only message.go splits a header.
//
//	stage           limits and shares of memory and disk; the Writer of a message
//	store           the bytes of a message, in memory or in a file
//	clean           makes CRLF line ends, or refuses bare CR and LF
//	message         splits header and body, and edits the header
//	mailbox, token  addresses in header fields
package message

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/emersion/go-message/textproto"
)

// The bounds of a header that is read.
const (
	maxHeader = 1 << 20 // bytes of all fields together
	maxFields = 5000
)

// A Message is a staged message or a view of one. It may be read by many
// goroutines at once.
type Message struct {
	store  *store // shared by all views
	fields []Field
	head   []byte // the fields and the empty line after them
	high   bool   // head holds a byte >= 0x80
}

// view returns the message with these fields and the body in s. head has their bytes and
// the empty line; if it is nil, view joins the fields.
func (s *store) view(fields []Field, head []byte) *Message {
	if head == nil {
		n := len(crlf)
		for _, f := range fields {
			n += len(f.Raw)
		}
		head = make([]byte, 0, n)
		for _, f := range fields {
			head = append(head, f.Raw...)
		}
		head = append(head, crlf...)
	}
	return &Message{store: s, fields: fields, head: head, high: lastHigh(head) >= 0}
}

// Fields iterates over the header from its top. The caller must not change the bytes
// of a field.
func (m *Message) Fields() iter.Seq[Field] { return slices.Values(m.fields) }

// Count returns the number of fields with that name.
func (m *Message) Count(name string) int {
	n := 0
	for _, f := range m.fields {
		if f.Is(name) {
			n++
		}
	}
	return n
}

// Header returns a copy of the header, which the caller may edit and pass to
// WithHeader. A field that the caller does not edit keeps its bytes.
func (m *Message) Header() textproto.Header {
	var h textproto.Header
	// AddRaw adds a field above the others.
	for _, f := range slices.Backward(m.fields) {
		h.AddRaw(f.Raw)
	}
	return h
}

// WithHeader returns a view of the message with another header. It fails if a field
// of h is not valid in a message, for example because of a bare newline.
func (m *Message) WithHeader(h textproto.Header) (*Message, error) {
	fields := make([]Field, 0, h.Len())
	for fs := h.Fields(); fs.Next(); {
		raw, err := fs.Raw()
		if err != nil {
			return nil, err
		}
		f, err := ParseField(raw)
		if err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	return m.store.view(fields, nil), nil
}

// Reader returns a new reader of the whole message: header, empty line, body.
func (m *Message) Reader() io.Reader {
	return io.MultiReader(bytes.NewReader(m.head), m.Body())
}

// Body returns a new reader of the part after the empty line.
func (m *Message) Body() io.Reader {
	return io.NewSectionReader(m.store, m.store.body, m.store.size-m.store.body)
}

// Size is the number of bytes that Reader returns.
func (m *Message) Size() int64 {
	return int64(len(m.head)) + m.store.size - m.store.body
}

// HeaderEightBit reports whether the header has bytes beyond US-ASCII, which need
// SMTPUTF8 (RFC 6531).
func (m *Message) HeaderEightBit() bool { return m.high }

// EightBit reports whether the header or the body has bytes beyond US-ASCII, which
// need 8BITMIME (RFC 6152).
func (m *Message) EightBit() bool { return m.high || m.store.high > m.store.body }

// Close releases the memory or the file of the body for all views of the message;
// none of them may be read afterwards. It may be called on any view, and more than
// once.
func (m *Message) Close() error { return m.store.Close() }

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
	return m.store.view(append(out, e.Bottom...), nil)
}

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

// largeHeader is the size, in bytes, above which a header needs free memory.
const largeHeader = 64 << 10

// message parses the header at the beginning of s and returns the message. It reserves the
// memory that the header needs: for itself, if s is a file, and for the two views that the
// server makes of a message, the completed one and the signed one. It reads about twice
// the header at most.
func (s *store) message() (*Message, error) {
	var h *parsed
	block := s.mem
	for n := int64(16 << 10); h == nil; n *= 2 {
		if s.file != nil {
			block = make([]byte, min(n, s.size))
			if _, err := s.ReadAt(block, 0); err != nil {
				return nil, &StorageError{err}
			}
		}
		var err error
		if h, err = split(block, int64(len(block)) == s.size); err != nil {
			return nil, err
		}
	}
	needed := 2 * h.body
	if s.file != nil {
		needed += h.body
	}
	// An ordinary header gets the memory even above the limit, since every message needs
	// it; for a large one that is a temporary error.
	if needed <= largeHeader {
		s.stage.memory.Add(s.owner, needed)
	} else if r := s.stage.memory.TakeAtLeast(s.owner, needed, headerMemory); r != nil {
		return nil, &StorageError{&RoomError{inMemory, r}}
	}
	s.charged += needed
	if s.file != nil {
		// block may be much larger than the header.
		var err error
		if h, err = split(bytes.Clone(block[:h.body]), true); err != nil {
			return nil, err
		}
	}
	s.body = h.body
	return s.view(h.fields, h.head), nil
}

// parsed is the header at the beginning of a message.
type parsed struct {
	fields []Field
	head   []byte // the fields and the empty line as in the message; nil if they were changed
	body   int64  // offset of the body
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
		name := fieldName(raw)
		if from := bytes.TrimLeft(raw, ">"); name == "" && off == 0 && len(from) > 5 && bytes.EqualFold(from[:5], []byte("From ")) {
			// The line that begins a message in an mbox file becomes a field, as in
			// Postfix's smtpd. Otherwise a client that sends such a file unchanged would
			// lose its header.
			name = "X-Mailbox-Line"
			raw = append([]byte(name+": "), raw...)
			asIs = false
		}
		if name == "" {
			break
		}
		h.fields = append(h.fields, Field{Name: name, Raw: raw})
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

// Reopenable reports whether Reopen accepts the bytes of m: fields on top may have made the
// header larger than a header that is read may be.
func (m *Message) Reopenable() bool { return len(m.head) <= maxHeader && len(m.fields) <= maxFields }

// Reopen returns a message of the size bytes at offset in f, which were written there from
// the Reader of a message. They are not cleaned again; eightBit is the result of EightBit
// of that message. The new message owns f and closes it; Reopen closes it if it fails.
func (s *Stage) Reopen(f *os.File, offset, size int64, eightBit bool) (*Message, error) {
	kept := &store{stage: s, file: f, base: offset, size: size}
	if eightBit {
		kept.high = size
	}
	m, err := kept.message()
	if err != nil {
		kept.Close()
	}
	return m, err
}
