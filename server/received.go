package server

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"postern/policy"
)

// A trace is the content of a Received field.
type trace struct {
	Hide   bool       // leave out who the client is
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
// RFC 5321, section 4.4 requires a "from" clause. With Hide there is none, as in
// Postfix with smtpd_hide_client_session: recipients need not know where an author
// lives. The administrator finds the user in the log by the id (BCP 134).
//
// There is no "for" clause: it is optional, the next hop adds one where that
// betrays no blind copy, and so nothing here comes from a RCPT command.
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
	fmt.Fprintf(&b, ";\r\n\t%s\r\n", date(t.Now))
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

// harmless makes a name from outside fit for a Received field: only characters of
// host names and address literals stay as they are.
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

// literal spells an address as in an address literal (RFC 5321, section 4.1.3).
func literal(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		return "IPv6:" + a.String()
	}
	return a.String()
}

// date spells a time as RFC 5322, section 3.3 does.
func date(t time.Time) string { return t.Format("Mon, 2 Jan 2006 15:04:05 -0700") }
