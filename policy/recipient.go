package policy

import (
	"context"

	"github.com/emersion/go-smtp"
)

// All of these have no opinion where no single recipient is known, as at DATA.

type permitAuthDestination struct{ base }

func (c permitAuthDestination) Check(_ context.Context, r *Request) Verdict {
	if r.Recipient == "" || !c.site.authorized(r.Recipient) {
		return Verdict{}
	}
	return Verdict{Action: Permit}
}

type rejectUnauthDestination struct{ base }

func (c rejectUnauthDestination) Check(_ context.Context, r *Request) Verdict {
	if r.Recipient == "" || c.site.authorized(r.Recipient) {
		return Verdict{}
	}
	return relayDenied(554, smtp.EnhancedCode{5, 7, 1}, r)
}

type deferUnauthDestination struct{ base }

func (c deferUnauthDestination) Check(_ context.Context, r *Request) Verdict {
	if r.Recipient == "" || c.site.authorized(r.Recipient) {
		return Verdict{}
	}
	return relayDenied(454, smtp.EnhancedCode{4, 7, 1}, r)
}

func relayDenied(code int, enhanced smtp.EnhancedCode, r *Request) Verdict {
	return refuse(code, enhanced, "<"+r.recipientSent()+">: Relay access denied")
}

type rejectNonFQDNRecipient struct{ base }

func (rejectNonFQDNRecipient) Check(_ context.Context, r *Request) Verdict {
	if r.Recipient == "" || fullyQualified(r.recipientSent()) {
		return Verdict{}
	}
	return needFQDN(r.recipientSent(), classRecipient)
}

type rejectUnknownRecipientDomain struct{ base }

func (c rejectUnknownRecipientDomain) Check(ctx context.Context, r *Request) Verdict {
	return c.site.mailable(ctx, r.Recipient, r.recipientSent(), unknownDomain{
		class:  classRecipient,
		code:   smtp.EnhancedCode{4, 1, 2},
		nullMX: refusal{556, smtp.EnhancedCode{5, 1, 10}}, // RFC 7505, section 4.1
	})
}

type rejectMultiRecipientBounce struct{ base }

// RFC 5321, section 4.5.5: a bounce goes to the one who has sent the message.
// At RCPT the recipient in question is not counted yet.
func (c rejectMultiRecipientBounce) Check(_ context.Context, r *Request) Verdict {
	allowed := 1
	if c.list.hasRecipient() {
		allowed = 0
	}
	if r.Sender != "" || r.Recipients <= allowed {
		return Verdict{}
	}
	return refuse(550, smtp.EnhancedCode{5, 5, 3},
		rejected(c.list.subject(r), c.list.class(), "Multi-recipient bounce"))
}
