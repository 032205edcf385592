package policy

import (
	"context"
	"strings"

	"github.com/emersion/go-smtp"
)

// A base is what every restriction has in common.
type base struct {
	*Env
	spelling string  // as it is configured
	list     stage   // the list that it is in
	reply    stage   // the stage whose subject is named in its replies
	looksAt  subject // for Explain
}

func (b base) String() string { return b.spelling }

// input is what the restriction looks at, for Explain.
func (b base) input(r *Request) string { return b.looksAt.of(r) }

// rejected is the text of a refusal that is not about a certain subject.
func (b base) rejected(r *Request, why string) string {
	return rejected(b.reply.replyName(r), b.reply.replyClass(), why)
}

type permit struct{ base }

func (permit) Check(context.Context, *Request) Verdict {
	return Verdict{Action: Permit}
}

type reject struct{ base }

func (c reject) Check(_ context.Context, r *Request) Verdict {
	return refuse(554, smtp.EnhancedCode{5, 7, 1}, c.rejected(r, "Access denied"))
}

// deferAll is the restriction "defer", which is a keyword of Go.
type deferAll struct{ base }

func (c deferAll) Check(_ context.Context, r *Request) Verdict {
	return refuse(450, smtp.EnhancedCode{4, 3, 2}, c.rejected(r, "Try again later"))
}

// warnIfRejectName is not in the table: it precedes another word.
const warnIfRejectName = "warn_if_reject"

// warnIfReject turns a refusal into a warning. As in Postfix, a permit stays a permit and a
// DeferIfReject stays one: without it, a later restriction could refuse what the restriction
// under test would have permitted if its lookup had not failed.
type warnIfReject struct{ Restriction }

func (c warnIfReject) String() string { return warnIfRejectName + " " + c.Restriction.String() }

func (c warnIfReject) Check(ctx context.Context, r *Request) Verdict {
	v := c.Restriction.Check(ctx, r)
	switch {
	case v.sub != nil:
		sub := *v.sub
		sub.warn = true
		v.sub = &sub
	case v.Action == Reject, v.Action == Defer, v.Action == DeferIfPermit:
		return Verdict{Warnings: []string{warning(c.Restriction, v)}, Entry: v.Entry, Cause: v.Cause}
	}
	return v
}

func (c warnIfReject) input(r *Request) string { return inputOf(c.Restriction, r) }

type permitSASLAuthenticated struct{ base }

func (permitSASLAuthenticated) Check(_ context.Context, r *Request) Verdict {
	if r.Login == "" {
		return Verdict{}
	}
	return Verdict{Action: Permit}
}

type permitMyNetworks struct{ base }

func (c permitMyNetworks) Check(_ context.Context, r *Request) Verdict {
	if !c.inMyNetworks(r) {
		return Verdict{}
	}
	return Verdict{Action: Permit}
}

type rejectPlaintextSession struct{ base }

// Postfix's plaintext_reject_code is 450, so this "reject" is a deferral.
func (rejectPlaintextSession) Check(_ context.Context, r *Request) Verdict {
	if r.TLS != (TLS{}) {
		return Verdict{}
	}
	return refuse(450, smtp.EnhancedCode{4, 7, 1}, "Session encryption is required")
}

type rejectInvalidHeloHostname struct{ base }

// RFC 6531, section 3.7.1: the name in EHLO is ASCII even with SMTPUTF8. A bare address is
// accepted, as in Postfix, for old clients.
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
