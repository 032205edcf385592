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
	// dropped fields are the business of the client or of the last host:
	// Postfix's message_drop_headers.
	dropped = []string{"Bcc", "Resent-Bcc", "Return-Path", "Content-Length"}

	// addressed fields get a domain where an address has none. Postfix would
	// add it later and break a signature.
	addressed = []string{
		"From", "Sender", "To", "Cc", "Reply-To",
		"Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc", "Resent-Reply-To",
	}
)

// fixUps says how the header of a submitted message is put in order.
type fixUps struct {
	Sender string        // of the envelope, in the form for the wire; empty for <>
	Origin string        // domain for addresses without one and for Message-ID
	NewID  func() string // left side of a Message-ID, another one at each call
	Trace  trace         // its time is also that of a missing Date
}

// fixHeader returns the view of m that goes to the next hop: with our Received
// field on top, and with the fix-ups of RFC 6409, section 8. All else stays
// byte for byte. A *smtp.SMTPError as error is the message's fault; any other
// means that f cannot stand in a header.
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

// each decides what becomes of one field.
func (f *fixUps) each(field message.Field) (message.Field, bool) {
	if slices.ContainsFunc(dropped, field.Is) {
		return field, false
	}
	if !slices.ContainsFunc(addressed, field.Is) {
		return field, true
	}
	value, changed := qualify(field.Value(), f.Origin)
	if !changed {
		return field, true
	}
	fixed, err := field.WithValue(value)
	if err != nil {
		return field, true
	}
	return fixed, true
}

// missing makes the fields that RFC 5322, section 3.6 demands and m lacks
// (RFC 6409, sections 8.2 and 8.3), in the place and order of Postfix's
// cleanup: below the others. A field that is there stays, even a wrong one: its
// author's threads and signatures hang on it.
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

// author is who stands in a missing From field: the sender, as in Postfix.
func (f *fixUps) author() string {
	if f.Sender == "" {
		return "Mail Delivery System <MAILER-DAEMON@" + f.Origin + ">"
	}
	return f.Sender
}

// qualify puts @origin behind the addresses in an address list that have no
// domain. Display names, comments, quotes, folding and groups stay as they
// are, and so does a list that cannot be understood. So do local parts with
// "!" and "%", which are old spellings of routes, not mailboxes of ours.
func qualify(value []byte, origin string) (fixed []byte, changed bool) {
	list, err := message.ParseMailboxes(value)
	if err != nil {
		return value, false
	}
	done := 0
	for _, a := range list {
		if a.Domain != "" || a.Local == "" || strings.ContainsAny(a.Local, "!%") {
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
