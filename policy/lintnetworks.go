package policy

import (
	"net/netip"
	"slices"
)

// sharedAddress finds addresses in mynetworks that many clients share. use is what they could
// all do.
func (l *linter) sharedAddress(what string, shared []netip.Prefix, use string) {
	for _, n := range l.cfg.MyNetworks {
		for _, p := range shared {
			if n.Overlaps(p) {
				l.warn("mynetworks", "%s covers %s, %s, whose address many clients share, and %s; remove it, or name only the addresses of your own clients", n, what, p, use)
			}
		}
	}
}

// networksUse returns what a client in mynetworks may do that others may not, or "" if
// mynetworks makes no difference.
func (l *linter) networksUse() string {
	for at := range stageCount {
		if l.cfg.words(at).has("permit_mynetworks") {
			return "permit_mynetworks in " + at.key() + " permits all of them"
		}
	}
	switch at, open := l.cfg.openEnd(); {
	case l.context.InTable != "":
		return "permit_mynetworks in " + l.context.InTable + " permits all of them"
	case l.context.RequireAuth:
		return ""
	case open:
		return "the end of " + at.key() + " permits all of them without a login"
	case l.context.Signs:
		return "the DKIM keys sign messages of all of them"
	}
	return ""
}

// has reports whether a list contains a restriction, under warn_if_reject, too: a permit
// permits there as well.
func (l Words) has(name string) bool {
	return slices.ContainsFunc(l, func(w Word) bool { return w.Name == name })
}

// openEnd returns the list, relay or recipient, whose end some recipients may reach: there only
// clients that have authenticated or are in mynetworks are permitted. As in Set.AtRcpt, the end
// of an empty list counts only if both are empty.
func (c *Config) openEnd() (at stage, open bool) {
	for at := stageRelay; at <= stageRecipient; at++ {
		words := c.words(at)
		skipped := len(words) == 0 && (at == stageRelay || len(c.Relay) > 0)
		if !skipped && !slices.ContainsFunc(words, endsAll) {
			return at, true
		}
	}
	return 0, false
}

// TableWithNetworks returns the first restriction with a lookup table of which an entry has
// permit_mynetworks, or "". A table that cannot be listed has none as far as is known.
func (s *Set) TableWithNetworks() string {
	for _, l := range s.lists {
		for _, r := range l {
			if w, ok := r.(warnIfReject); ok {
				r = w.Restriction
			}
			if c, ok := r.(*checkAccess); ok && c.usesNetworks() {
				return c.String()
			}
		}
	}
	return ""
}

func (c *checkAccess) usesNetworks() bool {
	for _, rule := range c.rules {
		for _, r := range rule.list {
			if w, ok := r.(warnIfReject); ok {
				r = w.Restriction
			}
			if _, ok := r.(permitMyNetworks); ok {
				return true
			}
		}
	}
	return false
}
