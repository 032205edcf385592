package policy

import (
	"context"
	"strings"

	"github.com/emersion/go-smtp"
)

type rejectInvalidHeloHostname struct{ base }

// RFC 6531, section 3.7.1: the name in EHLO is ASCII, also with SMTPUTF8. A
// bare address is let through, as Postfix does for old clients.
func (rejectInvalidHeloHostname) Check(_ context.Context, r *Request) Verdict {
	name := withoutFinalDot(r.Helo)
	switch {
	case r.Helo == "", validHostname(name), validHostaddr(name):
		return Verdict{}
	case strings.HasPrefix(r.Helo, "["):
		return heloLiteral(r.Helo)
	}
	return refuse(501, smtp.EnhancedCode{5, 5, 2}, rejected(r.Helo, classHelo, "Invalid name"))
}

type rejectNonFQDNHeloHostname struct{ base }

// RFC 5321, section 4.1.4: a fully qualified name or an address literal.
func (rejectNonFQDNHeloHostname) Check(_ context.Context, r *Request) Verdict {
	name := withoutFinalDot(r.Helo)
	switch {
	case r.Helo == "", validHostname(name) && strings.Contains(name, "."):
		return Verdict{}
	case strings.HasPrefix(r.Helo, "["):
		return heloLiteral(r.Helo)
	}
	return refuse(504, smtp.EnhancedCode{5, 5, 2}, rejected(r.Helo, classHelo, "need fully-qualified hostname"))
}

func heloLiteral(helo string) Verdict {
	if validLiteral(helo) {
		return Verdict{}
	}
	return refuse(501, smtp.EnhancedCode{5, 5, 2}, rejected(helo, classHelo, "invalid ip address"))
}
