package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Context is what a policy does not know about the listener that uses it.
type Context struct {
	RequireAuth bool           // the listener accepts no mail without a login
	Signs       bool           // the listener has DKIM keys
	InTable     string         // the lookup table that has permit_mynetworks: see Set.TableWithNetworks
	Proxies     []netip.Prefix // whose PROXY header is trusted
	Gateways    []netip.Prefix // container networks that hide their clients' addresses
}

// A Warning is about something that is allowed but is almost certainly a mistake.
type Warning struct {
	Key  string // relative to the section: "recipient"
	Text string // what is wrong, and what to do
}

// Lint finds what is almost certainly a mistake.
func (c Config) Lint(in Context) []Warning {
	l := linter{cfg: c, context: in}
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
	if use := l.networksUse(); use != "" {
		l.sharedAddress("a trusted proxy", in.Proxies, use)
		l.sharedAddress("a container gateway", in.Gateways, use)
	}
	return l.found
}

type linter struct {
	cfg     Config
	context Context
	found   []Warning
}

func (l *linter) warn(key, format string, args ...any) {
	l.found = append(l.found, Warning{key, fmt.Sprintf(format, args...)})
}

// unreachable finds words after one that ends every list.
func (l *linter) unreachable(at stage, words Words) {
	for i, w := range words {
		if endsAll(w) && i+1 < len(words) {
			l.warn(at.key(), "%s is never reached, since %s before it ends the list; remove it or move it up", words[i+1:], w)
			return
		}
	}
}

// endsAll reports whether a word ends every list. Under warn_if_reject, only a permit does.
func endsAll(w Word) bool {
	always := w.row().always
	return always == Permit || always != Dunno && !w.Warn
}

// refusesAll finds a reject that no client can avoid, not even an authenticated one.
func (l *linter) refusesAll(at stage, words Words) {
	for _, w := range words {
		if strings.HasPrefix(w.Name, "permit") || w.row().relaying == Permit {
			return
		}
		if endsAll(w) {
			l.warn(at.key(), "%s refuses all clients, authenticated ones too; put permit_sasl_authenticated before it", w)
			return
		}
	}
}

// noRecipient finds restrictions on the recipient where there may be many.
func (l *linter) noRecipient(at stage, words Words) {
	if at.hasRecipient() {
		return
	}
	for _, w := range words {
		if w.row().on == onRecipient {
			l.warn(at.key(), "%s has no effect here, since there is no single recipient any more; move it to recipient", w)
		}
	}
}

// helo finds restrictions that refuse laptops and phones for their EHLO name.
func (l *linter) helo(at stage, words Words) {
	for _, w := range words {
		if w.Name == "permit_sasl_authenticated" {
			return
		}
		if w.row().on == onHelo && !w.Warn {
			l.warn(at.key(), "%s refuses users, since many mail clients send a name in EHLO that is not fully qualified or not valid; remove it or put permit_sasl_authenticated before it", w)
		}
	}
}

// networksFirst finds a permit_mynetworks that has no effect, or more than it should.
func (l *linter) networksFirst(at stage, words Words) {
	networks := slices.IndexFunc(words, func(w Word) bool { return w.Name == "permit_mynetworks" })
	if networks < 0 {
		return
	}
	if l.context.RequireAuth {
		l.warn(at.key(), "permit_mynetworks permits no client without a login, since the listener requires authentication; remove it or set require_auth = false")
		return
	}
	login := slices.IndexFunc(words, func(w Word) bool { return w.Name == "permit_sasl_authenticated" })
	if networks < login {
		l.warn(at.key(), "permit_mynetworks before permit_sasl_authenticated allows all clients in mynetworks to send under any name without a login; remove it unless that is intended")
	}
}

// noDestinations finds restrictions on domains that are not configured.
func (l *linter) noDestinations(at stage, words Words) {
	if len(l.cfg.LocalDomains)+len(l.cfg.RelayDomains) > 0 {
		return
	}
	for _, w := range words {
		if strings.HasSuffix(w.Name, "_auth_destination") || strings.HasSuffix(w.Name, "_unauth_destination") {
			l.warn(at.key(), "%s accepts no destination, since no domains are configured; name them in local_domains or relay_domains", w)
		}
	}
}

// noFinalReject finds an end that permits all authorized clients.
func (l *linter) noFinalReject() {
	words := l.cfg.Recipient
	if n := len(words); n > 0 && refusesAlways(words[n-1]) || !l.cfg.Relay.relays(nil) {
		return
	}
	l.warn("recipient", "the list does not end in reject; add it, so that only what is permitted before it is accepted")
}

func refusesAlways(w Word) bool {
	always := w.row().always
	return (always == Reject || always == Defer) && !w.Warn
}

// OpenRelay is for a listener that does not require authentication. It returns nil if it is
// certain that no client outside mynetworks can send through it to a foreign destination
// without a login, or else the reason not to start.
//
// Postfix requires the same of smtpd_relay_restrictions and smtpd_recipient_restrictions, but
// checks only that the names are there; here a list counts only if the restriction is reached
// and not under warn_if_reject. A lookup table with an entry that permits counts as a permit,
// because it may match any sender or destination: such a table is safe only in one of the
// lists while the other one stops unauthorized clients without it.
func (s *Set) OpenRelay() error {
	for _, n := range s.cfg.MyNetworks {
		if tooWide(n) {
			return errors.New("mynetworks trusts a large part of the Internet, which makes an open relay; name the networks of your own clients")
		}
	}
	if !s.cfg.Relay.relays(s.lists[stageRelay]) || !s.cfg.Recipient.relays(s.lists[stageRecipient]) {
		return nil
	}
	return errors.New("this would be an open relay: without require_auth one of the lists policy.relay and policy.recipient must contain a working reject, defer, reject_unauth_destination or defer_unauth_destination, with no permit and no lookup table that permits before it; " +
		"for example set policy.relay = \"permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination\"")
}

// relays reports whether mail of unauthorized clients to foreign destinations may pass the
// list. built are the restrictions of the words, if they are known: then a table that permits
// nothing is no danger.
func (l Words) relays(built List) bool {
	for i, w := range l {
		does := w.row().relaying
		if built != nil && does == Permit && len(w.Args) > 0 && !mayPermit(built[i]) {
			continue
		}
		switch {
		case does == Permit:
			return true // under warn_if_reject too
		case does != Dunno && !w.Warn:
			return false
		}
	}
	return true
}

func mayPermit(r Restriction) bool {
	if w, ok := r.(warnIfReject); ok {
		r = w.Restriction
	}
	p, ok := r.(interface{ mayPermit() bool })
	return !ok || p.mayPermit()
}
