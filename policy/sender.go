package policy

import (
	"context"

	"github.com/emersion/go-smtp"
)

// All of these pass the empty sender: a bounce has nobody to look at.

type rejectNonFQDNSender struct{ base }

func (rejectNonFQDNSender) Check(_ context.Context, r *Request) Verdict {
	if r.Sender == "" || fullyQualified(r.senderSent()) {
		return Verdict{}
	}
	return needFQDN(r.senderSent(), classSender)
}

type rejectUnknownSenderDomain struct{ base }

func (c rejectUnknownSenderDomain) Check(ctx context.Context, r *Request) Verdict {
	return c.site.mailable(ctx, r.Sender, r.senderSent(), unknownDomain{
		class:  classSender,
		code:   smtp.EnhancedCode{4, 1, 8},
		nullMX: refusal{550, smtp.EnhancedCode{5, 7, 27}}, // RFC 7505, section 4.2
	})
}
