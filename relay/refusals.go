package relay

import (
	"net/netip"
	"regexp"
	"strings"
)

// A Reach is how much of the mail a refusal concerns.
type Reach int

const (
	All  Reach = iota // every message of every client
	Some              // perhaps: nothing is known of the cause
	None              // the address that Probe asked about, or the moment
)

// A Refused is a command that a hop refuses.
type Refused struct {
	Command string
	Reply   string // as one line: code, enhanced code, text
	Reach   Reach
	Step    string // what the administrator can do about it
}

// knownRefusals are what Postfix, and policy servers for it, answer. The first pattern that
// matches the command, a space and the reply counts. {own} in a step is the address of this
// machine that the hop sees, {network} the same as a network of mynetworks, {name} the name
// in EHLO.
var knownRefusals = []struct {
	pattern *regexp.Regexp
	reach   Reach
	step    string
}{
	{regexp.MustCompile(`(?i)relay access denied|relaying denied|relay not permitted|not permitted to relay`), All,
		"the hop does not trust {own}: add {network} to its mynetworks (Postfix: main.cf, then postfix reload)"},
	{regexp.MustCompile(`(?i)helo command rejected|^EHLO .*\b5\.5\.2\b`), All,
		"the hop refuses the name {name} in EHLO: set server.hostname, or relay.helo_name, to the full name of this machine, such as mail.example.org"},
	{regexp.MustCompile(`(?i)client host rejected: access denied|sender address rejected: (access denied|not logged in)`), All,
		"the hop requires a login: connect to a port that trusts {own}, which for Postfix is its port 25 or one for postern, " +
			"or name a file with user and password in relay.credentials"},
	{regexp.MustCompile(`(?i)client host rejected: cannot find your (reverse )?hostname`), All,
		"the hop requires a name in the DNS for {own}: add {network} to its mynetworks, and permit_mynetworks before its reject_unknown_client_hostname"},
	{regexp.MustCompile(`(?i)blocked using|listed (at|in|by)|blacklist|blocklist`), All,
		"the hop asks a blocklist about {own}: let it permit {network} before (Postfix: permit_mynetworks)"},
	{regexp.MustCompile(`(?i)server configuration (error|problem)|temporary lookup failure|queue file write error|internal error`), All,
		"the hop has an error of its own: look for it in the log of the hop (Postfix: journalctl -u postfix@-)"},
	{regexp.MustCompile(`(?i)insufficient system (storage|resources)|\b4\.3\.1\b`), All,
		"the disk of the hop is full: make room for its queue (Postfix: queue_minfree)"},
	{regexp.MustCompile(`(?i)service unavailable - try again later|milter`), All,
		"a milter of the hop does not answer: start it, or take it out of the hop's smtpd_milters"},
	{regexp.MustCompile(`(?i)\b5\.1\.10\b|null ?mx|does not accept mail`), None,
		"the domain accepts no mail, so this is right; name another address with --to"},
	{regexp.MustCompile(`(?i)gr[ae]y-?list`), None,
		"greylisting is for strangers: let the hop permit {network} before it, or every new recipient is delayed"},
	{regexp.MustCompile(`(?i)unverified (recipient|address|sender)|address verification`), None,
		"the hop verifies addresses first, so this may change in a minute"},
	{regexp.MustCompile(`(?i)^RCPT .*\b[45]\.1\.2\b.*(domain|host) not found|^RCPT 5.*domain not found`), None,
		"the hop finds no such domain in the DNS; if other domains exist for it, name an address of one of them with --to"},
	{regexp.MustCompile(`(?i)^RCPT .*(\b[45]\.1\.1\b|user unknown|unknown user|no such user|no mailbox)`), None,
		"the hop has no such user; RFC 5321, section 4.5.1, requires a postmaster for every domain that accepts mail"},
	{regexp.MustCompile(`(?i)^MAIL .*domain not found|^MAIL .*\b[45]\.1\.8\b`), Some,
		"the hop does not find the domain of the sender in the DNS: set server.origin to the domain of your users"},
	{regexp.MustCompile(`(?i)\b4\.7\.1\b.*(rate|limit|too many)|\b4\.4\.5\b|try again|too (many|much)`), None,
		"the hop limits the rate; exempt {network} (Postfix: smtpd_client_event_limit_exceptions)"},
}

// explain sets Reach and Step for the replies that are known.
func (p *peer) explain(r *Refused, own netip.Addr) {
	r.Reach, r.Step = Some, "look for the reason in the log of the hop"
	command, _, _ := strings.Cut(r.Command, " ")
	for _, known := range knownRefusals {
		if known.pattern.MatchString(command + " " + r.Reply) {
			r.Reach, r.Step = known.reach, known.step
			break
		}
	}
	address, network := "this machine", "the address of this machine"
	if own.IsValid() {
		address, network = own.String(), networkOf(own)
	}
	r.Step = strings.NewReplacer("{own}", address, "{network}", network, "{name}", p.helo).Replace(r.Step)
}

// networkOf returns an address in the syntax of mynetworks.
func networkOf(a netip.Addr) string {
	a = a.WithZone("")
	if a.Is6() {
		return "[" + a.String() + "]/128"
	}
	return a.String()
}
