// Package message holds a staged message: its header, to be looked at and
// edited, and its body, to be read as often as needed.
//
// A message arrives through a [Writer] from a [Stage]. What is small stays in
// memory, what is larger goes to a temporary file that has no name any more,
// so nothing is left behind whatever happens. The bytes of a staged message
// are clean (CRLF line ends only, no NUL) and not dot-stuffed.
//
// A [Message] never changes. An edit of the header is a new view of the same
// body: see [Message.Edit] and [Message.WithHeader]. Every field that an edit
// does not name keeps its bytes.
//
// The package knows header fields (RFC 5322, section 2.2) and the addresses in
// them (section 3.4, RFC 6854). It leaves MIME, encodings and the fix-ups of a
// submission server to others. A new kind of edit is a function that fills in
// an [Edit]; the splitting and joining of the header stays in header.go.
package message

import (
	"bytes"
	"io"
	"iter"
	"slices"

	"github.com/emersion/go-message/textproto"
)

// A Message is a staged message or a view of one. It may be read by many
// goroutines at once.
type Message struct {
	stored *stored
	fields []Field
	head   []byte // the fields and the empty line behind them
	high   bool   // head holds a byte >= 0x80
}

// stored is what all views of a message share.
type stored struct {
	store *store
	start int64 // where the body begins in store
	high  bool  // the body holds a byte >= 0x80
}

// view makes the message of fields over s. head is their bytes and the empty
// line, or nil where they have to be put together.
func view(s *stored, fields []Field, head []byte) *Message {
	if head == nil {
		head = join(fields)
	}
	return &Message{stored: s, fields: fields, head: head, high: lastHigh(head) >= 0}
}

// Fields goes through the header from its top. The bytes of a field are not
// to be changed.
func (m *Message) Fields() iter.Seq[Field] { return slices.Values(m.fields) }

// Header returns a copy of the header, which the caller may edit and hand to
// WithHeader. Its fields keep their bytes as they were.
func (m *Message) Header() textproto.Header {
	var h textproto.Header
	// AddRaw puts a field on top of those that are there.
	for _, f := range slices.Backward(m.fields) {
		h.AddRaw(f.Raw)
	}
	return h
}

// WithHeader returns a view of the message with another header. It fails where
// a field of h cannot stand in a message, such as one with a bare newline.
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
	return view(m.stored, fields, nil), nil
}

// Edit returns a view of the message with an edited header.
func (m *Message) Edit(e Edit) *Message {
	return view(m.stored, e.apply(m.fields), nil)
}

// Reader reads the whole message from its beginning: header, empty line, body.
// Each call returns a reader of its own.
func (m *Message) Reader() io.Reader {
	return io.MultiReader(bytes.NewReader(m.head), m.Body())
}

// Body reads what stands behind the empty line. Each call returns a reader of
// its own.
func (m *Message) Body() io.Reader {
	s := m.stored
	return io.NewSectionReader(s.store, s.start, s.store.size-s.start)
}

// Size is the number of bytes that Reader returns.
func (m *Message) Size() int64 {
	return int64(len(m.head)) + m.stored.store.size - m.stored.start
}

// HeaderEightBit says whether the header holds bytes beyond US-ASCII, for which
// SMTPUTF8 (RFC 6531) was made.
func (m *Message) HeaderEightBit() bool { return m.high }

// EightBit says whether header or body hold bytes beyond US-ASCII, which need
// 8BITMIME (RFC 6152).
func (m *Message) EightBit() bool { return m.high || m.stored.high }

// Close gives back the memory or the file of the body. All views end with it:
// none of them is to be read any more. It may be called on any view, and more
// than once.
func (m *Message) Close() error { return m.stored.store.Close() }
