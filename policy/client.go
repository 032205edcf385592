package policy

import (
	"context"

	"github.com/emersion/go-smtp"
)

type permitSASLAuthenticated struct{ base }

func (permitSASLAuthenticated) Check(_ context.Context, r *Request) Verdict {
	if r.Login == "" {
		return Verdict{}
	}
	return Verdict{Action: Permit}
}

type permitMyNetworks struct{ base }

func (c permitMyNetworks) Check(_ context.Context, r *Request) Verdict {
	if !c.site.trusts(r.Remote.Addr()) {
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
