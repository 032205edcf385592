package server

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"postern/policy"
	"postern/relay/message"
)

// maxReceived is how many Received fields a message may have before it counts as a mail
// loop (RFC 5321, section 6.3).
const maxReceived = 100

var replyLoop = &smtp.SMTPError{
	Code: 554, EnhancedCode: smtp.EnhancedCode{5, 4, 6},
	Message: "Too many Received fields: mail loop detected",
}

var (
	// dropped are fields that only the client or the final host uses: Postfix's
	// message_drop_headers.
	dropped = []string{"Bcc", "Resent-Bcc", "Return-Path", "Content-Length"}

	// authorFields and recipientFields are completed with server.origin (RFC
	// 6409, section 8.8). A Postfix that did it later would break a signature.
	authorFields    = []string{"From", "Sender", "Reply-To", "Resent-From", "Resent-Sender", "Resent-Reply-To"}
	recipientFields = []string{"To", "Cc", "Resent-To", "Resent-Cc"}
)

// maxCompleted bounds how many addresses of one message are completed. Each gets longer by a
// domain, so that a header of the allowed size could grow to a hundred times of it.
const maxCompleted = 1000

// fixUps holds the parameters of fixHeader.
type fixUps struct {
	Sender string        // of the envelope, in the form for the next hop; empty for <>
	Origin string        // domain for addresses without one and for Message-ID
	NewID  func() string // left side of a Message-ID, different at each call
	Trace  trace         // its time is also that of an added Date

	completed int // addresses so far
}

// fixHeader returns the view of m for the next hop: with a Received field of this server on
// top, and with the fix-ups of RFC 6409, section 8. Everything else is unchanged to the
// byte. A *smtp.SMTPError means that the message is at fault; any other
// error means that f does not fit into a header.
func fixHeader(m *message.Message, f fixUps) (*message.Message, error) {
	if m.Count("Received") > maxReceived {
		return nil, replyLoop
	}
	received, err := message.ParseField([]byte(f.Trace.field()))
	if err != nil {
		return nil, err
	}
	edit := message.Edit{Top: []message.Field{received}, Each: f.each}
	// The fields that RFC 5322, section 3.6 requires and m lacks (RFC 6409, sections 8.2 and
	// 8.3). They go below the others, in the order of Postfix's cleanup. A field that is
	// present stays, even a wrong one, because threads and signatures depend on it.
	for _, required := range []struct {
		name  string
		value func() string
	}{
		{"Message-ID", func() string { return "<" + f.NewID() + "@" + f.Origin + ">" }},
		{"Date", func() string { return f.Trace.Now.Format(dateFormat) }},
		{"From", f.author},
	} {
		if m.Count(required.name) > 0 {
			continue
		}
		field, err := message.NewField(required.name, required.value())
		if err != nil {
			return nil, err
		}
		edit.Bottom = append(edit.Bottom, field)
	}
	return m.Edit(edit), nil
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
	value := field.Value()
	list, err := message.ParseMailboxes(value)
	if err != nil {
		return field, true
	}
	if author && slices.ContainsFunc(list, func(a message.Mailbox) bool { return a.Domain != "" }) {
		return field, true // a word beside a complete author is a part of a name
	}
	fixed, err := f.complete(field, value, list)
	if err != nil {
		return field, true
	}
	return fixed, true
}

// complete adds @origin to the incomplete addresses of a field, and changes nothing else.
// Local parts with "!" and "%" are routes in an old notation, not mailboxes at origin, and
// stay as they are. So does a field with which the message would have more than maxCompleted.
func (f *fixUps) complete(field message.Field, value []byte, list []message.Mailbox) (message.Field, error) {
	list = slices.DeleteFunc(list, func(a message.Mailbox) bool {
		return !a.Incomplete || strings.ContainsAny(a.Local, "!%")
	})
	if len(list) == 0 || f.completed+len(list) > maxCompleted {
		return field, nil
	}
	f.completed += len(list)
	complete := make([]byte, 0, len(value)+len(list)*(len("@")+len(f.Origin)))
	done := 0
	for _, a := range list {
		complete = append(complete, value[done:a.End]...)
		complete = append(append(complete, '@'), f.Origin...)
		done = a.End
	}
	return field.WithValue(append(complete, value[done:]...))
}

// author returns the value of an added From field: the sender, as in Postfix.
func (f *fixUps) author() string {
	if f.Sender == "" {
		return "Mail Delivery System <MAILER-DAEMON@" + f.Origin + ">"
	}
	return f.Sender
}

// A trace is the content of a Received field.
type trace struct {
	Hide   bool       // leave out the client's name and address
	Helo   string     // as the client gave it; not to be trusted
	PTR    string     // verified name of Remote; empty if there is none
	Remote netip.Addr // of the client

	Extended bool       // EHLO, not HELO
	UTF8     bool       // MAIL had SMTPUTF8
	TLS      policy.TLS // empty on clear text
	Login    bool       // the client has authenticated

	Hostname string
	ID       string // session and message, as in the log
	Now      time.Time
}

// field returns the Received field, final CRLF included.
//
// RFC 5321, section 4.4 requires a "from" clause. With Hide there is none, as in Postfix
// with smtpd_hide_client_session, since the address would show recipients where the author
// is. The administrator finds the user in the log by the id (BCP 134).
//
// There is no "for" clause: it is optional, and the next hop adds one where that does not
// disclose a blind copy. So nothing in the field comes from a RCPT command.
func (t *trace) field() string {
	var b strings.Builder
	b.WriteString("Received: ")
	if !t.Hide {
		fmt.Fprintf(&b, "from %s (%s [%s])\r\n\t", harmless(t.Helo), harmless(t.PTR), literal(t.Remote))
	}
	fmt.Fprintf(&b, "by %s (postern)\r\n\twith %s id %s", t.Hostname, t.protocol(), t.ID)
	if t.TLS.Version != "" {
		// RFC 8314, section 7.4: a separate clause.
		fmt.Fprintf(&b, "\r\n\ttls %s (%s)", t.TLS.Cipher, t.TLS.Version)
	}
	fmt.Fprintf(&b, ";\r\n\t%s\r\n", t.Now.Format(dateFormat))
	return b.String()
}

// protocol is the keyword of the "with" clause: RFC 3848, and RFC 6531,
// section 4.3 for UTF8SMTP. There are none for HELO over TLS.
func (t *trace) protocol() string {
	if !t.Extended {
		return "SMTP"
	}
	name := "ESMTP"
	if t.UTF8 {
		name = "UTF8SMTP"
	}
	if t.TLS.Version != "" {
		name += "S"
	}
	if t.Login {
		name += "A"
	}
	return name
}

// maxName bounds a name in a Received field, as RFC 5321, section 4.5.3.1.2
// bounds a domain.
const maxName = 255

// harmless replaces the characters of a name from outside that do not occur in host names
// and address literals.
func harmless(name string) string {
	if name == "" {
		return "unknown"
	}
	b := []byte(name[:min(len(name), maxName)])
	for i, c := range b {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte(".-_:[]", c) >= 0:
		default:
			b[i] = '?'
		}
	}
	return string(b)
}

// literal formats an address as an address literal (RFC 5321, section 4.1.3).
func literal(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		return "IPv6:" + a.String()
	}
	return a.String()
}

// dateFormat is that of RFC 5322, section 3.3.
const dateFormat = "Mon, 2 Jan 2006 15:04:05 -0700"
