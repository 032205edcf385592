package policy

import (
	"context"
	"fmt"

	"github.com/emersion/go-smtp"
)

// A Set holds the lists of all stages and asks them in the order of Postfix
// with smtpd_delay_reject = yes. It is immutable and used by many sessions at
// once.
type Set struct {
	lists [stageCount]List
	site  *site
	cfg   Config
}

// NewSet builds the lists of cfg. The resolver serves the restrictions that
// ask the DNS; *net.Resolver is one.
func NewSet(cfg Config, resolver Resolver) (*Set, error) {
	s := &Set{cfg: cfg, site: newSite(cfg, resolver)}
	for at := range stageCount {
		list, err := s.build(at, cfg.words(at))
		if err != nil {
			return nil, fmt.Errorf("policy.%s: %w", at.key(), err)
		}
		s.lists[at] = list
	}
	return s, nil
}

func (s *Set) build(at stage, words Words) (List, error) {
	list := make(List, 0, len(words))
	for _, w := range words {
		e := find(w.Name)
		if e == nil {
			return nil, unknownName(w.Name)
		}
		r := e.make(base{spelling: e.name, list: at, site: s.site})
		if w.Warn {
			r = warnIfReject{r}
		}
		list = append(list, r)
	}
	return list, nil
}

// AtRcpt evaluates the lists client, helo, sender, relay and recipient for one
// recipient.
//
// As in Postfix, a DeferIfPermit is valid for all lists of a recipient, and a
// DeferIfReject for the lists of its stage; relay and recipient are one stage.
func (s *Set) AtRcpt(ctx context.Context, r *Request) Verdict {
	var e evaluation
	for at := stageClient; at <= stageSender; at++ {
		e.ifReject = Verdict{}
		if v := e.ask(ctx, s.lists[at], r); refused(v) {
			return e.end(v)
		}
	}
	e.ifReject = Verdict{}
	var v Verdict
	for at := stageRelay; at <= stageRecipient && !refused(v); at++ {
		v = s.askGuarded(ctx, &e, at, r)
	}
	return e.end(v)
}

// askGuarded asks the relay or the recipient list. At its end, where Postfix permits, it
// refuses a client that is neither authenticated nor in mynetworks, so that a list without
// a final "reject" does not make an open relay. If both lists are empty, only the end
// of recipient counts.
func (s *Set) askGuarded(ctx context.Context, e *evaluation, at stage, r *Request) Verdict {
	v := e.ask(ctx, s.lists[at], r)
	skipped := len(s.lists[at]) == 0 && (at == stageRelay || len(s.lists[stageRelay]) > 0)
	if v.Action != Dunno || skipped || !s.site.stranger(r) {
		return v
	}
	v = relayDenied(554, smtp.EnhancedCode{5, 7, 1}, r)
	v.Restriction = "end of " + at.key()
	return e.reject(v)
}

// AtData evaluates the list data for the transaction: all recipients are known,
// the message is not.
func (s *Set) AtData(ctx context.Context, r *Request) Verdict {
	var e evaluation
	return e.end(e.ask(ctx, s.lists[stageData], r))
}

// AtEndOfData evaluates the list end_of_data for the transaction: the message has
// arrived, and will be accepted unless the list refuses it.
func (s *Set) AtEndOfData(ctx context.Context, r *Request) Verdict {
	var e evaluation
	return e.end(e.ask(ctx, s.lists[stageEndOfData], r))
}

// An evaluation is the state of the lists for one request. A temporary error may
// have kept a restriction from refusing or from permitting; so a later permit or reject
// is not trusted, and becomes a 4xx with the text of the first such error.
type evaluation struct {
	ifPermit Verdict // the first DeferIfPermit; Dunno where there was none
	ifReject Verdict // the first DeferIfReject of this stage
	warnings []string
}

// ask asks the restrictions of l in order. The verdict is Permit, Reject or
// Defer, or Dunno if no restriction has decided.
func (e *evaluation) ask(ctx context.Context, l List, r *Request) Verdict {
	for _, w := range l {
		v := w.Check(ctx, r)
		e.warnings = append(e.warnings, v.Warnings...)
		if v.Action != Dunno {
			v.Restriction = w.String()
		}
		switch v.Action {
		case Permit, Defer:
			return v
		case Reject:
			return e.reject(v)
		case DeferIfPermit:
			keepFirst(&e.ifPermit, v)
		case DeferIfReject:
			keepFirst(&e.ifReject, v)
		}
		if e.ifPermit.Action != Dunno && e.ifReject.Action != Dunno {
			break // a 4xx is certain, whatever the others return
		}
	}
	return Verdict{}
}

func keepFirst(kept *Verdict, v Verdict) {
	if kept.Action == Dunno {
		*kept = v
	}
}

// reject returns v, or a 4xx in its place if a DeferIfReject came before it.
func (e *evaluation) reject(v Verdict) Verdict {
	if e.ifReject.Action == Dunno {
		return v
	}
	v = e.ifReject
	v.Action = Defer
	return v
}

// end returns the final verdict. A request that was not refused is permitted, or
// deferred if there was a DeferIfPermit.
func (e *evaluation) end(v Verdict) Verdict {
	switch {
	case refused(v):
	case e.ifPermit.Action != Dunno:
		v = e.ifPermit
		v.Action = Defer
	default:
		v.Action = Permit
	}
	v.Warnings = e.warnings
	return v
}

func refused(v Verdict) bool { return v.Action == Reject || v.Action == Defer }
