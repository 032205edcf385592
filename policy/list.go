package policy

import "context"

// A course is the way of one request through the lists, with what colours its
// end. A temporary error may have kept a restriction from refusing or from
// permitting; so a later permit or reject is not trusted and becomes a 4xx
// with the text of the first such error.
type course struct {
	ifPermit Verdict // the first DeferIfPermit; Dunno where there was none
	ifReject Verdict // the first DeferIfReject of this stage
	warnings []string
}

// nextStage forgets what only colours the end of one stage: as in Postfix, a
// DeferIfPermit is good for all lists of a recipient, a DeferIfReject for the
// lists of its stage.
func (c *course) nextStage() { c.ifReject = Verdict{} }

// ask asks the restrictions of l in order. The verdict is Permit, Reject or
// Defer, or Dunno if nothing has decided.
func (c *course) ask(ctx context.Context, l List, r *Request) Verdict {
	for _, w := range l {
		v := w.Check(ctx, r)
		c.warnings = append(c.warnings, v.Warnings...)
		if v.Action != Dunno {
			v.Restriction = w.String()
		}
		switch v.Action {
		case Permit, Defer:
			return v
		case Reject:
			return c.reject(v)
		case DeferIfPermit:
			keepFirst(&c.ifPermit, v)
		case DeferIfReject:
			keepFirst(&c.ifReject, v)
		}
		if c.ifPermit.Action != Dunno && c.ifReject.Action != Dunno {
			break // a 4xx is certain, whatever the rest says
		}
	}
	return Verdict{}
}

func keepFirst(kept *Verdict, v Verdict) {
	if kept.Action == Dunno {
		*kept = v
	}
}

// reject colours a 5xx.
func (c *course) reject(v Verdict) Verdict {
	if c.ifReject.Action == Dunno {
		return v
	}
	v = c.ifReject
	v.Action = Defer
	return v
}

// end is the final verdict. Whatever was not refused is permitted, but for a
// DeferIfPermit.
func (c *course) end(v Verdict) Verdict {
	switch {
	case refused(v):
	case c.ifPermit.Action != Dunno:
		v = c.ifPermit
		v.Action = Defer
	default:
		v.Action = Permit
	}
	v.Warnings = c.warnings
	return v
}

func refused(v Verdict) bool { return v.Action == Reject || v.Action == Defer }
