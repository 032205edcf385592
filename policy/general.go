package policy

import (
	"context"
	"fmt"

	"github.com/emersion/go-smtp"
)

// A base is what every restriction knows: how it is spelled, the list that it
// stands in, and the site.
type base struct {
	spelling string
	list     stage
	site     *site
}

func (b base) String() string { return b.spelling }

type permit struct{ base }

func (permit) Check(context.Context, *Request) Verdict {
	return Verdict{Action: Permit}
}

type reject struct{ base }

func (c reject) Check(_ context.Context, r *Request) Verdict {
	return refuse(554, smtp.EnhancedCode{5, 7, 1},
		rejected(c.list.subject(r), c.list.class(), "Access denied"))
}

// "defer" is a word of Go.
type deferAll struct{ base }

func (c deferAll) Check(_ context.Context, r *Request) Verdict {
	return refuse(450, smtp.EnhancedCode{4, 3, 2},
		rejected(c.list.subject(r), c.list.class(), "Try again later"))
}

// warnIfRejectName is not in the table: it is said before another word.
const warnIfRejectName = "warn_if_reject"

// warnIfReject makes a warning of a refusal. As in Postfix, a permit stays a
// permit and a DeferIfReject stays one: without it, a later restriction could
// refuse what the one under test could not look up to permit.
type warnIfReject struct{ Restriction }

func (c warnIfReject) String() string { return warnIfRejectName + " " + c.Restriction.String() }

func (c warnIfReject) Check(ctx context.Context, r *Request) Verdict {
	v := c.Restriction.Check(ctx, r)
	switch v.Action {
	case Reject, Defer, DeferIfPermit:
		return Verdict{Warnings: []string{warning(c.Restriction, v)}}
	}
	return v
}

func warning(by Restriction, v Verdict) string {
	e := v.Reply.EnhancedCode
	return fmt.Sprintf("%s: %d %d.%d.%d %s", by, v.Reply.Code, e[0], e[1], e[2], v.Reply.Message)
}
