package policy

import (
	"context"

	"github.com/emersion/go-smtp"
)

// The restrictions on the sender have no opinion about the null sender: there is no address
// to check. Those on the recipient have none at DATA and later, where there is no single
// recipient.

type rejectNonFQDNSender struct{ base }

func (rejectNonFQDNSender) Check(_ context.Context, r *Request) Verdict {
	if r.Sender == "" || fullyQualified(r.senderSent()) {
		return Verdict{}
	}
	return needFQDN(r.senderSent(), classSender)
}

type rejectNonFQDNRecipient struct{ base }

func (rejectNonFQDNRecipient) Check(_ context.Context, r *Request) Verdict {
	if r.Recipient == "" || fullyQualified(r.recipientSent()) {
		return Verdict{}
	}
	return needFQDN(r.recipientSent(), classRecipient)
}

func needFQDN(address, class string) Verdict {
	return refuse(504, smtp.EnhancedCode{5, 5, 2}, rejected(address, class, "need fully-qualified address"))
}

type rejectUnknownSenderDomain struct{ base }

func (c rejectUnknownSenderDomain) Check(ctx context.Context, r *Request) Verdict {
	return c.checkDomain(ctx, r.Sender, domainReplies{
		sent:   r.senderSent(),
		class:  classSender,
		code:   smtp.EnhancedCode{4, 1, 8},
		nullMX: smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 7, 27}}, // RFC 7505, section 4.2
	})
}

type rejectUnknownRecipientDomain struct{ base }

func (c rejectUnknownRecipientDomain) Check(ctx context.Context, r *Request) Verdict {
	return c.checkDomain(ctx, r.Recipient, domainReplies{
		sent:   r.recipientSent(),
		class:  classRecipient,
		code:   smtp.EnhancedCode{4, 1, 2},
		nullMX: smtp.SMTPError{Code: 556, EnhancedCode: smtp.EnhancedCode{5, 1, 10}}, // RFC 7505, section 4.1
	})
}

// domainReplies are the replies about an address whose domain cannot receive mail.
type domainReplies struct {
	sent   string // the address in the reply
	class  string
	code   smtp.EnhancedCode // goes with 450, Postfix's unknown_address_reject_code
	nullMX smtp.SMTPError
}

func (d domainReplies) notFound() Verdict {
	return refuse(450, d.code, rejected(d.sent, d.class, "Domain not found"))
}

// checkDomain refuses an address to which no mail can be sent, unless its domain is local or
// an address literal.
func (e *Env) checkDomain(ctx context.Context, address string, replies domainReplies) Verdict {
	_, domain := splitAddress(address)
	if domain == "" || isLiteral(domain) || e.isLocal(address) {
		return Verdict{}
	}
	name, ok := asciiDomain(domain)
	if !ok {
		return replies.notFound()
	}
	state, err := e.mailDomain(ctx, name)
	switch state {
	case domainExists:
		return Verdict{}
	case domainUnknown:
		return replies.notFound()
	case domainNullMX:
		return refuse(replies.nullMX.Code, replies.nullMX.EnhancedCode,
			rejected(replies.sent, replies.class, "Domain "+name+" does not accept mail (nullMX)"))
	}
	v := replies.notFound()
	v.Action, v.Cause = DeferIfPermit, err
	return v
}

type permitAuthDestination struct{ base }

func (c permitAuthDestination) Check(_ context.Context, r *Request) Verdict {
	if r.Recipient == "" || !c.authDestination(r.Recipient) {
		return Verdict{}
	}
	return Verdict{Action: Permit}
}

type rejectUnauthDestination struct{ base }

func (c rejectUnauthDestination) Check(_ context.Context, r *Request) Verdict {
	if r.Recipient == "" || c.authDestination(r.Recipient) {
		return Verdict{}
	}
	return relayDenied(554, smtp.EnhancedCode{5, 7, 1}, r)
}

type deferUnauthDestination struct{ base }

func (c deferUnauthDestination) Check(_ context.Context, r *Request) Verdict {
	if r.Recipient == "" || c.authDestination(r.Recipient) {
		return Verdict{}
	}
	return relayDenied(454, smtp.EnhancedCode{4, 7, 1}, r)
}

func relayDenied(code int, enhanced smtp.EnhancedCode, r *Request) Verdict {
	return refuse(code, enhanced, "<"+r.recipientSent()+">: Relay access denied")
}

type rejectMultiRecipientBounce struct{ base }

// RFC 5321, section 4.5.5: a bounce goes only to the sender of the message. At RCPT the
// recipient in question is not counted yet.
func (c rejectMultiRecipientBounce) Check(_ context.Context, r *Request) Verdict {
	allowed := 1
	if c.list.hasRecipient() {
		allowed = 0
	}
	if r.Sender != "" || r.Recipients <= allowed {
		return Verdict{}
	}
	return refuse(550, smtp.EnhancedCode{5, 5, 3}, c.rejected(r, "Multi-recipient bounce"))
}
