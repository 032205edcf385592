package server

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern/relay/relaytest"
)

// judge compares what the clients of a program have sent and received with what the relay
// and the next hop have received. It returns the number of accepted messages.
func judge(t *testing.T, s *fuzzServer, p *fuzzPlay) int {
	messages, commands, faults := s.hop.Take()
	asked, sent := s.relay.take()
	for _, fault := range faults {
		t.Error(fault)
	}
	for _, c := range commands {
		if !hopCommand.MatchString(c) {
			t.Errorf("the hop has received %q", c)
		}
	}
	for _, q := range asked {
		if why := forbidden(q); why != "" {
			t.Errorf("<%s> for %q (%s) reached the relay: %s", q.to, q.envelope.Login, q.envelope.Listener, why)
		}
	}
	var accepted []acceptance
	lost := false
	for _, c := range p.clients {
		lost = lost || c.wasReset()
		accepted = append(accepted, read(t, c)...)
	}
	compare(t, delivered(messages), accepted, sent, lost)
	if t.Failed() {
		for i, c := range p.clients {
			t.Logf("client %d of %s\nsent in clear %.4000q\nreceived %.4000q\nsent in TLS %.4000q\nreceived %.4000q", i, c.listener,
				c.clear.sent, c.clear.received, c.secure.sent, c.secure.received)
		}
	}
	return len(accepted)
}

// hopCommand is what the relay may send: addresses are quoted where they must be.
var hopCommand = regexp.MustCompile(`^\d+ (?:EHLO \S+|MAIL FROM:<(?:` + hopAddress + `)?>(?: .*)?|RCPT TO:<` + hopAddress + `>(?: .*)?|DATA|RSET|QUIT)$`)

const hopAddress = `(?:[^\s"<>@(),:;\[\]\\]+|"(?:[^"\\\r\n]|\\.)*")@(?:[^\s"<>@(),:;\[\]\\]+|\[[0-9A-Za-z.:]+\])`

// forbidden is the reason for which the policy must refuse a recipient, or empty.
func forbidden(q question) string {
	at := strings.LastIndexByte(q.to, '@')
	local, domain := q.to[:max(at, 0)], strings.ToLower(q.to[at+1:])
	switch {
	case q.envelope.Login == "" && q.envelope.Listener != openListener:
		return "without AUTH"
	case !strings.Contains(domain, ".") && !strings.HasPrefix(domain, "["):
		return "not fully qualified"
	case q.envelope.Login == "" && (domain != relayDomain || strings.ContainsAny(local, "%!@")):
		return "not in relayDomain"
	}
	return ""
}

func delivered(all []relaytest.Message) map[string]relaytest.Message {
	found := map[string]relaytest.Message{}
	for _, m := range all {
		// A reply that is cut short does not count.
		if strings.HasPrefix(m.Reply, "250 ") && queuedAs(m.Reply) != "" {
			found[queuedAs(m.Reply)] = m
		}
	}
	return found
}

// An acceptance is a message for which a client has received 250.
type acceptance struct {
	id       string
	listener string
	user     string
	from     string
	to       []string
	body     string // as the client sent it, without stuffed dots
}

// compare checks that each message of the hop has one acceptance, and each acceptance one
// message.
func compare(t *testing.T, hop map[string]relaytest.Message, accepted []acceptance, sent map[string]dispatch, lost bool) {
	t.Helper()
	if !lost && len(accepted) != len(sent) || len(accepted) > len(sent) {
		t.Errorf("the clients have received 250 for %d messages, and the hop has accepted %d", len(accepted), len(sent))
	}
	seen := map[string]bool{}
	for _, a := range accepted {
		m, ok := hop[a.id]
		d := sent[a.id]
		if !ok || d.envelope == nil || seen[a.id] {
			t.Errorf("a client has received 250 for %q (again: %v), which the hop has not accepted", a.id, seen[a.id])
			continue
		}
		seen[a.id] = true
		e := d.envelope
		if e.Login != a.user || e.Listener != a.listener || !mayUse(e.Login, e.Sender) {
			t.Errorf("a message from <%s> was accepted for %q on %s, of the client %q on %s", e.Sender, e.Login, e.Listener, a.user, a.listener)
		}
		if m.From != e.Sender || !slices.Equal(envelopeOf(m.To), d.to) {
			t.Errorf("<%s> to %q became <%s> to %q", e.Sender, d.to, m.From, m.To)
		}
		if !alike(m.From, a.from) || len(a.to) != len(m.To) {
			t.Errorf("the client has sent <%s> to %q, and it became <%s> to %q", a.from, a.to, m.From, m.To)
		}
		for i := range min(len(a.to), len(m.To)) {
			if !alike(m.To[i].Address, a.to[i]) {
				t.Errorf("the client has sent <%s>, and it became <%s>", a.to[i], m.To[i].Address)
			}
		}
		compareText(t, string(m.Data), a.body)
	}
	for _, id := range slices.Sorted(maps.Keys(sent)) {
		if !seen[id] && !lost {
			t.Errorf("no client has received 250 for %q, from <%s>", id, sent[id].envelope.Sender)
		}
	}
}

func envelopeOf(all []relaytest.Recipient) (to []string) {
	for _, r := range all {
		to = append(to, r.Address)
	}
	return to
}

var plainAddress = regexp.MustCompile(`^[A-Za-z0-9]+@[A-Za-z0-9.]+$`)

// alike compares an address with the one that a client has sent, if that has only one
// spelling.
func alike(a, sent string) bool {
	return a == sent || sent != "" && !plainAddress.MatchString(sent)
}

var (
	lineEnds  = regexp.MustCompile(`\r*\n`)
	loneCR    = regexp.MustCompile(`\r([^\n])`)
	headLines = regexp.MustCompile(`^(?:[!-9;-~]+:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)+\r\n`)
)

// meant is a message with its line ends corrected, by RFC 5321, section 2.3.8, and as
// Postfix does it.
func meant(text string) string {
	if trimmed := strings.TrimRight(text, "\r"); trimmed != text {
		text = trimmed + "\r\n"
	} else if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\r\n"
	}
	text = lineEnds.ReplaceAllString(text, "\r\n")
	for loneCR.MatchString(text) {
		text = loneCR.ReplaceAllString(text, " $1")
	}
	return text
}

// compareText compares the bodies of messages, if it is clear where the body begins.
func compareText(t *testing.T, got, sent string) {
	t.Helper()
	if strings.Contains(sent, "\x00") {
		t.Errorf("a message with a NUL was accepted: %.500q", sent)
	}
	if !strings.HasPrefix(got, "Received: ") {
		t.Errorf("a message without its Received field: %.500q", got)
	}
	text := meant(sent)
	head := headLines.FindString(text)
	_, body, _ := strings.Cut(got, "\r\n\r\n")
	if head != "" && body != text[len(head):] {
		t.Errorf("the client has sent %.2000q, and it became %.2000q", sent, got)
	}
}
