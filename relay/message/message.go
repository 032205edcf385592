// Package message stores a message while it passes through the server: its header can
// be inspected and edited, and its body can be read any number of times.
//
// A message arrives through a [Writer] from a [Stage]. A small message stays in
// memory; a larger one goes to a temporary file without a name, which the kernel
// removes however the process ends. The bytes of a staged message
// are clean (CRLF line ends only, no NUL) and not dot-stuffed.
//
// A [Message] never changes. An edit of the header is a new view of the same
// body: see [Message.Edit] and [Message.WithHeader]. Every field that an edit
// does not name keeps its bytes.
//
// The package parses header fields (RFC 5322, section 2.2) and the addresses in them
// (section 3.4, RFC 6854). It does not parse MIME and encodings, and the fix-ups of a
// submission server are in package server. A new kind of edit is a function that fills in
// an [Edit]; only header.go splits a header.
//
//	stage, store    receive the bytes of a message, in memory or in a file
//	clean           makes CRLF line ends, or refuses bare CR and LF
//	header          splits header and body, and edits the header
//	message         a message, and reopening one that is stored in a file
//	mailbox, token  addresses in header fields
package message

import (
	"bytes"
	"io"
	"iter"
	"os"
	"slices"

	"github.com/emersion/go-message/textproto"
)

// A Message is a staged message or a view of one. It may be read by many
// goroutines at once.
type Message struct {
	stored *stored
	fields []Field
	head   []byte // the fields and the empty line after them
	high   bool   // head holds a byte >= 0x80
}

// stored is the part that all views of a message share.
type stored struct {
	store *store
	start int64 // where the body begins in store
	high  bool  // the body holds a byte >= 0x80
}

// view returns the message with these fields over s. head has their bytes and the
// empty line; if it is nil, view joins the fields.
func view(s *stored, fields []Field, head []byte) *Message {
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
	return &Message{stored: s, fields: fields, head: head, high: lastHigh(head) >= 0}
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
	return view(m.stored, fields, nil), nil
}

// Reader returns a new reader of the whole message: header, empty line, body.
func (m *Message) Reader() io.Reader {
	return io.MultiReader(bytes.NewReader(m.head), m.Body())
}

// Body returns a new reader of the part after the empty line.
func (m *Message) Body() io.Reader {
	s := m.stored
	return io.NewSectionReader(s.store, s.start, s.store.size-s.start)
}

// Size is the number of bytes that Reader returns.
func (m *Message) Size() int64 {
	return int64(len(m.head)) + m.stored.store.size - m.stored.start
}

// HeaderEightBit reports whether the header has bytes beyond US-ASCII, which need
// SMTPUTF8 (RFC 6531).
func (m *Message) HeaderEightBit() bool { return m.high }

// EightBit reports whether the header or the body has bytes beyond US-ASCII, which
// need 8BITMIME (RFC 6152).
func (m *Message) EightBit() bool { return m.high || m.stored.high }

// Close releases the memory or the file of the body for all views of the message;
// none of them may be read afterwards. It may be called on any view, and more than
// once.
func (m *Message) Close() error { return m.stored.store.Close() }

// Reopenable reports whether Reopen accepts the bytes of m: fields on top may have made the
// header larger than a header that is read may be.
func (m *Message) Reopenable() bool { return len(m.head) <= maxHeader && len(m.fields) <= maxFields }

// Reopen returns a message of the size bytes at offset in f, which were written there from
// the Reader of a message. They are not cleaned again; eightBit is the result of EightBit
// of that message. The new message owns f and closes it; Reopen closes it if it fails.
func (s *Stage) Reopen(f *os.File, offset, size int64, eightBit bool) (*Message, error) {
	kept := &store{stage: s, file: f, base: offset, size: size}
	h, err := readHeader(kept)
	if err != nil {
		kept.Close()
		return nil, err
	}
	return view(&stored{store: kept, start: h.body, high: eightBit}, h.fields, h.head), nil
}
