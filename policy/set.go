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

// AtRcpt judges one recipient by the lists client, helo, sender, relay and
// recipient.
func (s *Set) AtRcpt(ctx context.Context, r *Request) Verdict {
	var c course
	for at := stageClient; at <= stageSender; at++ {
		c.nextStage()
		if v := c.ask(ctx, s.lists[at], r); refused(v) {
			return c.end(v)
		}
	}
	c.nextStage() // one for both: relay and recipient are one stage to Postfix
	var v Verdict
	for at := stageRelay; at <= stageRecipient && !refused(v); at++ {
		v = s.askGuarded(ctx, &c, at, r)
	}
	return c.end(v)
}

// askGuarded asks the relay or the recipient list. At its end, where Postfix
// permits, a stranger is refused, so that a list whose last word is missing
// makes no open relay. Without any list there is one end, that of recipient.
func (s *Set) askGuarded(ctx context.Context, c *course, at stage, r *Request) Verdict {
	v := c.ask(ctx, s.lists[at], r)
	skipped := len(s.lists[at]) == 0 && (at == stageRelay || len(s.lists[stageRelay]) > 0)
	if v.Action != Dunno || skipped || !s.site.stranger(r) {
		return v
	}
	v = relayDenied(554, smtp.EnhancedCode{5, 7, 1}, r)
	v.Restriction = "end of " + at.key()
	return c.reject(v)
}

// AtData judges the transaction by the list data: all recipients are known,
// the message is not.
func (s *Set) AtData(ctx context.Context, r *Request) Verdict {
	return s.askOne(ctx, stageData, r)
}

// AtEndOfData judges the transaction by the list end_of_data: the message has
// arrived, and 250 would take it.
func (s *Set) AtEndOfData(ctx context.Context, r *Request) Verdict {
	return s.askOne(ctx, stageEndOfData, r)
}

func (s *Set) askOne(ctx context.Context, at stage, r *Request) Verdict {
	var c course
	return c.end(c.ask(ctx, s.lists[at], r))
}
