package server

import (
	"slices"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
)

// maxReceived is how many Received fields a message may have before it is
// taken to run in a circle (RFC 5321, section 6.3).
const maxReceived = 100

var replyLoop = &smtp.SMTPError{
	Code: 554, EnhancedCode: smtp.EnhancedCode{5, 4, 6},
	Message: "Too many Received fields: the message runs in a circle",
}

var (
	// dropped fields belong to the client or to the final host. They are
	// Postfix's message_drop_headers.
	dropped = []string{"Bcc", "Resent-Bcc", "Return-Path", "Content-Length"}

	// authorFields and recipientFields are completed with server.origin (RFC
	// 6409, section 8.8). A Postfix that did it later would break a signature.
	authorFields    = []string{"From", "Sender", "Reply-To", "Resent-From", "Resent-Sender", "Resent-Reply-To"}
	recipientFields = []string{"To", "Cc", "Resent-To", "Resent-Cc"}
)

// fixUps holds the parameters of fixHeader.
type fixUps struct {
	Sender string        // of the envelope, in the form for the next hop; empty for <>
	Origin string        // domain for addresses without one and for Message-ID
	NewID  func() string // left side of a Message-ID, different at each call
	Trace  trace         // its time is also that of an added Date
}

// fixHeader returns the view of m for the next hop: with our Received field on
// top, and with the fix-ups of RFC 6409, section 8. Everything else is unchanged
// to the byte. A *smtp.SMTPError means that the message is at fault; any other
// error means that f does not fit into a header.
func fixHeader(m *message.Message, f fixUps) (*message.Message, error) {
	if m.Count("Received") > maxReceived {
		return nil, replyLoop
	}
	received, err := message.ParseField([]byte(f.Trace.field()))
	if err != nil {
		return nil, err
	}
	missing, err := f.missing(m)
	if err != nil {
		return nil, err
	}
	return m.Edit(message.Edit{
		Top:    []message.Field{received},
		Each:   f.each,
		Bottom: missing,
	}), nil
}

// each returns the new form of one field, and whether to keep it.
func (f *fixUps) each(field message.Field) (message.Field, bool) {
	if slices.ContainsFunc(dropped, field.Is) {
		return field, false
	}
	author := slices.ContainsFunc(authorFields, field.Is)
	if !author && !slices.ContainsFunc(recipientFields, field.Is) {
		return field, true
	}
	list, err := message.ParseMailboxes(field.Value())
	if err != nil || author && slices.ContainsFunc(list, hasDomain) {
		return field, true // a word beside a complete author is a part of a name
	}
	value, changed := qualify(field.Value(), list, f.Origin)
	if !changed {
		return field, true
	}
	fixed, err := field.WithValue(value)
	if err != nil {
		return field, true
	}
	return fixed, true
}

// missing returns the fields that RFC 5322, section 3.6 requires and m lacks
// (RFC 6409, sections 8.2 and 8.3). They go below the others, in the order of
// Postfix's cleanup. A field that is present stays, even a wrong one, because
// threads and signatures depend on it.
func (f *fixUps) missing(m *message.Message) ([]message.Field, error) {
	var out []message.Field
	for _, add := range []struct {
		name  string
		value func() string
	}{
		{"Message-ID", func() string { return "<" + f.NewID() + "@" + f.Origin + ">" }},
		{"Date", func() string { return date(f.Trace.Now) }},
		{"From", f.author},
	} {
		if m.Count(add.name) > 0 {
			continue
		}
		field, err := message.NewField(add.name, add.value())
		if err != nil {
			return nil, err
		}
		out = append(out, field)
	}
	return out, nil
}

// author returns the value of an added From field: the sender, as in Postfix.
func (f *fixUps) author() string {
	if f.Sender == "" {
		return "Mail Delivery System <MAILER-DAEMON@" + f.Origin + ">"
	}
	return f.Sender
}

func hasDomain(a message.Mailbox) bool { return a.Domain != "" }

// qualify adds @origin to the incomplete addresses in list, which was read from
// value. It changes nothing else. Local parts with "!" and "%" are old spellings
// of routes, not mailboxes at origin, and stay as they are.
func qualify(value []byte, list []message.Mailbox, origin string) (fixed []byte, changed bool) {
	done := 0
	for _, a := range list {
		if !a.Incomplete || strings.ContainsAny(a.Local, "!%") {
			continue
		}
		fixed = append(fixed, value[done:a.End]...)
		fixed = append(append(fixed, '@'), origin...)
		done = a.End
	}
	if done == 0 {
		return value, false
	}
	return append(fixed, value[done:]...), true
}
