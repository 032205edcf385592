// Package message holds a staged message: its header, to be looked at and
// edited, and its body, to be read as often as needed.
//
// A message arrives through a [Writer] from a [Stage]. What is small stays in
// memory, what is larger goes to a temporary file that has no name any more,
// so nothing is left behind whatever happens. The bytes of a staged message
// are clean (CRLF line ends only, no NUL) and not dot-stuffed.
//
// A [Message] never changes. An edit of the header is a new view of the same
// body: see [Message.WithHeader]. The first message, the one that
// [Writer.Message] returned, owns the body; closing it ends all views.
package message

import (
	"io"

	"github.com/emersion/go-message/textproto"
)

// A Message is a staged message or a view of one. It may be read by many
// goroutines at once.
type Message struct {
	header textproto.Header
	body   *io.SectionReader
}

// Header returns a copy of the header, which the caller may edit and hand to
// WithHeader. Its fields keep their bytes as they were.
func (m *Message) Header() textproto.Header { return m.header.Copy() }

// Reader reads the whole message from its beginning: header, empty line, body.
// Each call returns a reader of its own.
func (m *Message) Reader() io.Reader { return m.body }
