package spool

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
	"postern/internal/text"
	"postern/relay/message"
)

// A kind of report.
type kind struct {
	action  string // RFC 3464, section 2.3.3
	subject string
	text    string
}

var (
	failed = kind{"failed", "Undelivered Mail Returned to Sender",
		"Your message could not be delivered to the recipients below. It will not be tried again."}
	delayed = kind{"delayed", "Delayed Mail (still being retried)",
		"Your message has not been delivered yet to the recipients below. There is no need to\r\nsend it again: it will be tried until %s."}
)

// maxReturned is the size, in bytes, of the largest message that RET=FULL returns; of a
// larger one only the header is returned.
const maxReturned = 1 << 20

// A failure is the reason why a recipient does not have the message.
type failure struct {
	place  int             // index of the recipient
	status string          // RFC 3463
	reply  *smtp.SMTPError // of the hop; nil if there was none
}

// statusOf returns the enhanced code of a refusal, or, if it does not fit, the general code
// of its class (RFC 3463, section 3.1).
func statusOf(e *smtp.SMTPError) string {
	c := e.EnhancedCode
	if c[0] != e.Code/100 {
		c = smtp.EnhancedCode{e.Code / 100, 0, 0}
	}
	return fmt.Sprintf("%d.%d.%d", c[0], c[1], c[2])
}

// diagnostic returns the reply on one line, or an empty string.
func (f failure) diagnostic() string {
	if f.reply == nil {
		return ""
	}
	return oneLine(fmt.Sprintf("%d %s %s", f.reply.Code, statusOf(f.reply), f.reply.Message))
}

// oneLine makes s one printable line of at most 600 octets, for a report or the log.
func oneLine(s string) string { return text.Line(s, 600) }

// report spools a report on some recipients, and returns whether it has done so or none is
// needed: there must be no report on a message with a null sender (RFC 5321, section 6.1;
// RFC 3464, section 2).
func (j *job) report(k kind, about []failure) bool {
	s := j.spool
	if len(about) == 0 || j.Envelope.Sender == "" {
		return true
	}
	m, err := j.compose(k, about)
	if err != nil {
		s.events.DiskError(WriteReport, j.entry.id, err)
		return false
	}
	defer m.Close()
	e := j.Envelope
	id, err := s.keep(&header{
		Arrived: time.Now(), Reason: k.action + ": report on " + j.entry.id, Report: true,
		// RFC 3464, section 2: the null sender, so that a report is never answered.
		Envelope: envelope{Session: e.Session, Listener: e.Listener, Remote: e.Remote, Login: e.Login, Users: e.Users, MaySign: true, UTF8: e.UTF8},
		To:       []recipient{{Address: e.Sender}},
	}, m)
	if err != nil {
		s.events.DiskError(KeepReport, j.entry.id, err)
		return false
	}
	s.events.ReportSpooled(MessageEvent{Session: e.Session, QueueID: id}, j.entry.id, k.action, e.Sender, len(about))
	return true
}

// compose writes the report as a message.
func (j *job) compose(k kind, about []failure) (*message.Message, error) {
	original, err := j.message()
	if err != nil && !errors.Is(err, errDamaged) {
		return nil, err
	}
	if original != nil { // a damaged message is reported without its header
		defer original.Close()
	}
	w := j.spool.stage.New(message.Options{})
	r := &reporter{job: j, kind: k, about: about, out: w, boundary: rand.Text()}
	r.write(original)
	if r.err != nil {
		w.Abort()
		return nil, r.err
	}
	return w.Message()
}

// A reporter writes one report. After an error it writes nothing more.
type reporter struct {
	*job
	kind     kind
	about    []failure
	out      io.Writer
	boundary string
	err      error
}

func (r *reporter) printf(format string, args ...any) {
	if r.err == nil {
		_, r.err = fmt.Fprintf(r.out, format+"\r\n", args...)
	}
}

// field writes one field of the delivery status, unless it is empty. Without
// SMTPUTF8 it must be ASCII (RFC 6533, section 3).
func (r *reporter) field(name, value string) {
	if value = oneLine(value); value == "" {
		return
	}
	if !r.Envelope.UTF8 {
		value = text.Replace(value, func(c rune) bool { return c > unicode.MaxASCII }, '?')
	}
	r.printf("%s: %s", name, value)
}

// write writes a multipart/report (RFC 6522): a text for people, the delivery status
// for programs (RFC 3464, or RFC 6533 with SMTPUTF8), and the message.
func (r *reporter) write(original *message.Message) {
	status, whole, header := "message/delivery-status", "message/rfc822", "text/rfc822-headers"
	if r.Envelope.UTF8 {
		status, whole, header = "message/global-delivery-status", "message/global", "message/global-headers"
	}
	r.printf("From: Mail Delivery System <MAILER-DAEMON@%s>", r.spool.origin)
	r.printf("To: <%s>", r.Envelope.Sender)
	r.printf("Subject: %s", r.kind.subject)
	r.printf("Date: %s", mailDate(time.Now()))
	r.printf("Message-ID: <%s@%s>", rand.Text(), r.spool.host)
	r.printf("Auto-Submitted: auto-replied") // RFC 3834, section 5
	r.printf("MIME-Version: 1.0")
	// RFC 6522, section 3: report-type is the subtype of the part for programs.
	_, reportType, _ := strings.Cut(status, "/")
	r.printf("Content-Type: multipart/report; report-type=%s;", reportType)
	r.printf("\tboundary=\"%s\"", r.boundary)
	r.printf("\r\nThis is a report on a message in MIME format.")
	r.part("text/plain; charset=utf-8", true)
	r.notice()
	r.part(status, r.Envelope.UTF8)
	r.aboutMessage()
	for _, f := range r.about {
		r.recipient(f)
	}
	switch {
	case original == nil:
	// RFC 3461, section 4.3: RET applies to failures only; without it the server decides.
	case r.kind == failed && smtp.DSNReturn(r.Envelope.Return) == smtp.DSNReturnFull && r.Size <= maxReturned:
		r.part(whole, r.EightBit)
		r.copy(original.Reader())
	default:
		r.part(header, original.HeaderEightBit())
		for f := range original.Fields() {
			r.copy(strings.NewReader(string(f.Raw)))
		}
	}
	r.printf("\r\n--%s--", r.boundary)
}

func (r *reporter) copy(from io.Reader) {
	if r.err == nil {
		_, r.err = io.Copy(r.out, from)
	}
}

func (r *reporter) part(contentType string, eightBit bool) {
	r.printf("\r\n--%s", r.boundary)
	r.printf("Content-Type: %s", contentType)
	if eightBit {
		r.printf("Content-Transfer-Encoding: 8bit")
	}
	r.printf("")
}

func (r *reporter) notice() {
	r.printf("This is the mail system at %s.\r\n", r.spool.host)
	if r.kind == delayed {
		r.printf(r.kind.text, mailDate(r.spool.deadline(r.Arrived)))
	} else {
		r.printf("%s", r.kind.text)
	}
	for _, f := range r.about {
		why := f.diagnostic()
		if why == "" {
			why = "the next mail system did not reply"
		}
		r.printf("\r\n<%s>\r\n    %s", r.To[f.place].Address, why)
	}
}

// aboutMessage writes the fields about the message (RFC 3464, section 2.2).
func (r *reporter) aboutMessage() {
	// The decoded value is printable ASCII (see relay.Envelope).
	if id, ok := dsn.DecodeXtext(r.Envelope.EnvelopeID); ok && id != "" {
		r.printf("Original-Envelope-Id: %s", id)
	}
	r.field("Reporting-MTA", "dns; "+r.spool.host)
	r.field("X-Postern-Queue-ID", r.entry.id)
	r.field("Arrival-Date", mailDate(r.Arrived))
}

// recipient writes the fields about one recipient (RFC 3464, section 2.3).
func (r *reporter) recipient(f failure) {
	to := &r.To[f.place]
	r.printf("")
	if original := r.original(to); original != "" {
		r.printf("Original-Recipient: %s; %s", strings.ToLower(string(to.Kind)), original)
	}
	kind := "rfc822"
	if !text.IsASCII(to.Address) {
		kind = "utf-8" // RFC 6533, section 3
	}
	r.printf("Final-Recipient: %s; %s", kind, to.Address) // has no control characters
	r.field("Action", r.kind.action)
	r.field("Status", f.status)
	if f.reply != nil {
		r.field("Diagnostic-Code", "smtp; "+f.diagnostic())
	}
	r.field("Last-Attempt-Date", mailDate(time.Now()))
	if r.kind == delayed {
		r.field("Will-Retry-Until", mailDate(r.spool.deadline(r.Arrived)))
	}
}

// original returns the address of ORCPT for the report, or nothing. It is decoded (RFC
// 3464, section 2.3.1) if the report can show it: a report without SMTPUTF8 is
// ASCII, in which an address of the type utf-8 is encoded (RFC 6533, section 3), and the
// octets of another type need not be text. Otherwise it is as the client sent it, which
// is unambiguous. In neither form does it have control characters.
func (r *reporter) original(to *recipient) string {
	decoded, ok := dsn.DecodeOriginalRecipient(string(to.Kind), to.Original)
	switch {
	case !ok:
		return ""
	case r.Envelope.UTF8 && !strings.ContainsFunc(decoded, text.Unprintable):
		return decoded
	case dsn.IsUTF8(string(to.Kind)):
		encoded, _ := dsn.ASCIIOriginalRecipient(string(to.Kind), to.Original) // empty if too long
		return encoded
	case !text.IsASCII(decoded):
		return to.Original
	}
	return decoded
}

// mailDate formats a time as RFC 5322, section 3.3, asks for.
func mailDate(t time.Time) string { return t.Format("Mon, 2 Jan 2006 15:04:05 -0700") }
