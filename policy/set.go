package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/internal/access"
	"postern/policy/lookup"
)

// A Set holds the lists of all stages and evaluates them in the order of Postfix with
// smtpd_delay_reject = yes. It is immutable, and many sessions use it at once.
type Set struct {
	lists [stageCount]List
	env   *Env
	cfg   Config
}

// NewSet builds the lists of cfg and opens their tables, each once. The caller must close
// the Set when no session uses it any more. NewSet returns an error if a table cannot be
// opened or has an invalid entry.
func NewSet(cfg Config, env *Env) (*Set, error) {
	s := &Set{cfg: cfg, env: env.forSet(cfg)}
	for at := range stageCount {
		for _, w := range cfg.words(at) {
			row := w.row()
			b := base{Env: s.env, spelling: w.restriction(), list: at, reply: at, looksAt: row.on}
			r, err := b.build(w)
			if err != nil {
				s.Close() // the error that led here is the one to report
				return nil, fmt.Errorf("policy.%s: %w", at.key(), err)
			}
			s.lists[at] = append(s.lists[at], r)
		}
	}
	return s, nil
}

// build makes the restriction of one word.
func (b base) build(w Word) (Restriction, error) {
	e := find(w.Name)
	if e == nil {
		return nil, unknownName(w.Name, nil)
	}
	if _, err := e.takeArgs(w.Args); err != nil {
		return nil, err
	}
	r, err := e.make(w.Args, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.name, err)
	}
	if w.Warn {
		r = warnIfReject{r}
	}
	return r, nil
}

// Close closes the tables.
func (s *Set) Close() error {
	var all []error
	for _, t := range s.env.tables {
		all = append(all, t.Close())
	}
	return errors.Join(all...)
}

// Check asks each table, in the order of their names, whether it can answer. It is for "postern
// check".
func (s *Set) Check(ctx context.Context, report func(table string, err error)) {
	for _, name := range slices.Sorted(maps.Keys(s.env.tables)) {
		report(name, s.env.tables[name].Check(ctx))
	}
}

// Access adds to l the files and hosts of the lookup tables. key is the configuration key of the
// section. Nothing is opened.
func (c *Config) Access(key string, l *access.List) {
	for at := range stageCount {
		for _, w := range c.words(at) {
			for _, arg := range w.Args {
				if spec, err := lookup.Parse(arg); err == nil {
					spec.Access(key+"."+at.key(), l)
				}
			}
		}
	}
}

// AsksDNS reports whether a restriction asks the DNS.
func (c *Config) AsksDNS() bool {
	for at := range stageCount {
		for _, w := range c.words(at) {
			if strings.HasPrefix(w.Name, "reject_unknown_") {
				return true
			}
		}
	}
	return false
}

// AtRcpt evaluates the lists client, helo, sender, relay and recipient for one recipient.
//
// As in Postfix, a DeferIfPermit applies to all lists of a recipient, and a DeferIfReject
// to the lists of its stage; relay and recipient are one stage.
func (s *Set) AtRcpt(ctx context.Context, r *Request) Verdict {
	var e evaluation
	return s.atRcpt(ctx, &e, r)
}

func (s *Set) atRcpt(ctx context.Context, e *evaluation, r *Request) Verdict {
	for at := stageClient; at <= stageSender; at++ {
		e.ifReject = Verdict{}
		if v := e.ask(ctx, at, s.lists[at], r); refused(v) {
			return e.end(v)
		}
	}
	e.ifReject = Verdict{}
	var v Verdict
	for at := stageRelay; at <= stageRecipient && !refused(v); at++ {
		v = e.ask(ctx, at, s.lists[at], r)
		// At the end of the list, where Postfix permits, refuse a client that is neither
		// authenticated nor in mynetworks, so that a list without a final "reject" does not
		// make an open relay. If both lists are empty, only the end of recipient counts.
		skipped := len(s.lists[at]) == 0 && (at == stageRelay || len(s.lists[stageRelay]) > 0)
		if v.Action != Dunno || skipped || !s.env.unauthorized(r) {
			continue
		}
		v = relayDenied(554, smtp.EnhancedCode{5, 7, 1}, r)
		v.Restriction = "end of " + at.key()
		if e.steps != nil {
			e.record(at, v.Restriction, onRecipient.of(r), v)
		}
		v = e.reject(v)
	}
	return e.end(v)
}

// AtData evaluates the list data, when all recipients are known but the message is not.
func (s *Set) AtData(ctx context.Context, r *Request) Verdict {
	var e evaluation
	return e.end(e.ask(ctx, stageData, s.lists[stageData], r))
}

// AtEndOfData evaluates the list end_of_data, after the message has arrived.
func (s *Set) AtEndOfData(ctx context.Context, r *Request) Verdict {
	var e evaluation
	return e.end(e.ask(ctx, stageEndOfData, s.lists[stageEndOfData], r))
}

// InMyNetworks reports whether the client of r is in mynetworks: a client that may send without
// a login as far as the lists permit it, and whose messages are signed.
func (s *Set) InMyNetworks(r *Request) bool { return s.env.inMyNetworks(r) }

// A Step is one restriction that was evaluated, or the end of a list that refused.
type Step struct {
	List        string // the key of the list in the configuration: "recipient"
	Restriction string // as it is configured, with its arguments
	Input       string // what it looked at: "sender <alice@example.org>"
	Action      Action
	Reply       *smtp.SMTPError // nil unless the Action rejects or defers
	Why         string          // the table entry, the warning or the failed lookup that is the reason
}

// Explain evaluates a message from r to one recipient as AtRcpt, AtData and AtEndOfData do. It
// returns each step up to the one that decided, and the verdict. The lookups are real ones.
func (s *Set) Explain(ctx context.Context, r *Request) ([]Step, Verdict) {
	var steps []Step
	e := evaluation{steps: &steps}
	v := s.atRcpt(ctx, &e, r)
	accepted := *r
	accepted.Recipient, accepted.RecipientSent = "", ""
	accepted.Recipients++
	for at := stageData; at <= stageEndOfData && v.Action == Permit; at++ {
		e = evaluation{steps: &steps, warnings: v.Warnings}
		next := e.end(e.ask(ctx, at, s.lists[at], &accepted))
		if refused(next) || next.Restriction != "" {
			v = next
		}
		v.Warnings = next.Warnings
	}
	return steps, v
}

// An evaluation is the state of the lists for one request. A temporary error may have
// prevented a restriction from refusing or permitting. Therefore a later permit or reject
// becomes a 4xx, with the text of the first such error.
type evaluation struct {
	ifPermit Verdict // the first DeferIfPermit; Dunno if there was none
	ifReject Verdict // the first DeferIfReject of this stage
	warnings []string
	steps    *[]Step // nil unless they are wanted
}

// ask evaluates the restrictions of l in order. The verdict is Permit, Reject or Defer, or
// Dunno if no restriction has decided.
func (e *evaluation) ask(ctx context.Context, at stage, l List, r *Request) Verdict {
	for _, w := range l {
		v := w.Check(ctx, r)
		e.warnings = append(e.warnings, v.Warnings...)
		if v.Action != Dunno {
			v.Restriction = w.String()
		}
		if e.steps != nil {
			e.record(at, w.String(), inputOf(w, r), v)
		}
		if v.sub != nil {
			v = e.askSub(ctx, at, v.sub, r)
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

// askSub evaluates the restrictions in a table entry.
func (e *evaluation) askSub(ctx context.Context, at stage, sub *sublist, r *Request) Verdict {
	list := sub.list
	if sub.warn {
		list = make(List, len(sub.list))
		for i, w := range sub.list {
			list[i] = warnIfReject{w}
		}
	}
	v := e.ask(ctx, at, list, r)
	if sub.noPermit && v.Action == Permit {
		return Verdict{}
	}
	return v
}

func (e *evaluation) record(at stage, restriction, input string, v Verdict) {
	step := Step{List: at.key(), Restriction: restriction, Input: input, Action: v.Action, Reply: v.Reply}
	switch {
	case v.Cause != nil:
		step.Why = v.Cause.Error()
	case v.Entry != "":
		step.Why = "entry " + v.Entry
	case len(v.Warnings) > 0:
		step.Why = v.Warnings[0]
	}
	*e.steps = append(*e.steps, step)
}

// inputOf returns what a restriction looks at.
func inputOf(w Restriction, r *Request) string {
	if b, ok := w.(interface{ input(*Request) string }); ok {
		return b.input(r)
	}
	return ""
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

// end returns the final verdict. A request that was not refused is permitted, or deferred if
// there was a DeferIfPermit.
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
