package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Surroundings are what a policy cannot know by itself.
type Surroundings struct {
	RequireAuth bool           // the listener takes no mail without a login
	Proxies     []netip.Prefix // whose PROXY header is believed
	Gateways    []netip.Prefix // container networks behind which clients hide
}

// A Warning is about something that is allowed but can hardly be meant.
type Warning struct {
	Key  string // relative to the section: "recipient"
	Text string // what is odd, and what to do
}

// Lint looks for what can hardly be meant.
func (c Config) Lint(s Surroundings) []Warning {
	l := linter{cfg: c, around: s}
	for at := range stageCount {
		words := c.words(at)
		l.unreachable(at, words)
		l.refusesAll(at, words)
		l.noRecipient(at, words)
		l.helo(at, words)
		l.networksFirst(at, words)
		l.noDestinations(at, words)
	}
	l.noFinalReject()
	l.trustedCrowd("a trusted proxy", s.Proxies)
	l.trustedCrowd("a container gateway", s.Gateways)
	return l.found
}

type linter struct {
	cfg    Config
	around Surroundings
	found  []Warning
}

func (l *linter) warn(key, format string, args ...any) {
	l.found = append(l.found, Warning{key, fmt.Sprintf(format, args...)})
}

// unreachable: what stands behind a word that ends every list.
func (l *linter) unreachable(at stage, words Words) {
	for i, w := range words {
		if endsAll(w) && i+1 < len(words) {
			l.warn(at.key(), "%s is never reached, since %s before it ends the list; take it out or move it up", words[i+1:], w)
			return
		}
	}
}

// endsAll: under warn_if_reject, only a permit still ends anything.
func endsAll(w Word) bool {
	always := w.entry().always
	return always == Permit || always != Dunno && !w.Warn
}

// refusesAll: a reject that nobody can get round, a user least of all.
func (l *linter) refusesAll(at stage, words Words) {
	for _, w := range words {
		if strings.HasPrefix(w.Name, "permit") {
			return
		}
		if endsAll(w) {
			l.warn(at.key(), "%s refuses everybody, also who has logged in; put permit_sasl_authenticated before it", w)
			return
		}
	}
}

// noRecipient: a question about the recipient where there are many.
func (l *linter) noRecipient(at stage, words Words) {
	if at.hasRecipient() {
		return
	}
	for _, w := range words {
		if w.entry().on == onRecipient {
			l.warn(at.key(), "%s has no effect here, since no single recipient is known any more; move it to recipient", w)
		}
	}
}

// helo: laptops and phones greet with whatever they are called.
func (l *linter) helo(at stage, words Words) {
	for _, w := range words {
		if w.Name == "permit_sasl_authenticated" {
			return
		}
		if w.entry().on == onHelo && !w.Warn {
			l.warn(at.key(), "%s refuses users, since many mail clients greet with a name that is not fully qualified or not valid; take it out or put permit_sasl_authenticated before it", w)
		}
	}
}

// networksFirst: who is in mynetworks needs no password, or needs one
// nevertheless.
func (l *linter) networksFirst(at stage, words Words) {
	networks := slices.IndexFunc(words, func(w Word) bool { return w.Name == "permit_mynetworks" })
	if networks < 0 {
		return
	}
	if l.around.RequireAuth {
		l.warn(at.key(), "permit_mynetworks lets nobody in without a login, since the listener requires authentication; take it out or set require_auth = false")
		return
	}
	login := slices.IndexFunc(words, func(w Word) bool { return w.Name == "permit_sasl_authenticated" })
	if networks < login {
		l.warn(at.key(), "permit_mynetworks before permit_sasl_authenticated lets everybody in mynetworks send under any name without a login; take it out unless that is meant")
	}
}

// noDestinations: a question after domains that are not configured.
func (l *linter) noDestinations(at stage, words Words) {
	if len(l.cfg.LocalDomains)+len(l.cfg.RelayDomains) > 0 {
		return
	}
	for _, w := range words {
		if strings.HasSuffix(w.Name, "_auth_destination") || strings.HasSuffix(w.Name, "_unauth_destination") {
			l.warn(at.key(), "%s finds no destination that is ours; name your domains in local_domains or relay_domains", w)
		}
	}
}

// noFinalReject: an end at which everybody passes who is not a stranger.
func (l *linter) noFinalReject() {
	words := l.cfg.Recipient
	if n := len(words); n > 0 && refusesAlways(words[n-1]) || l.cfg.Relay.stopStrangers() {
		return
	}
	l.warn("recipient", "the list does not end in reject; add it, so that only what is permitted before gets through")
}

func refusesAlways(w Word) bool {
	always := w.entry().always
	return (always == Reject || always == Defer) && !w.Warn
}

// trustedCrowd: an address that stands for many clients is not to be trusted.
func (l *linter) trustedCrowd(what string, crowd []netip.Prefix) {
	for _, n := range l.cfg.MyNetworks {
		for _, p := range crowd {
			if n.Overlaps(p) {
				l.warn("mynetworks", "%s covers %s, %s, whose address many clients share; they would all be trusted, so take it out", n, what, p)
			}
		}
	}
}
