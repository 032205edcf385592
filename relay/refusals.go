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
// matches the command, a space and the reply counts, both as plain makes them. {own} in a
// step is the address of this machine that the hop sees, {network} the same as a network of
// mynetworks, {name} the name in EHLO.
var knownRefusals = []struct {
	pattern *regexp.Regexp
	reach   Reach
	step    string
}{
	{regexp.MustCompile(`(?i)relay access denied|relaying denied|relay not permitted|not permitted to relay`), All,
		"the hop does not trust {own}: add {network} to its mynetworks, and keep permit_mynetworks first in its smtpd_relay_restrictions (Postfix: main.cf, then postfix reload)"},
	{regexp.MustCompile(`(?i)helo command rejected: (need fully|invalid name)|^EHLO .*\b5\.5\.2\b`), All,
		"the hop refuses the name {name} in EHLO: set server.hostname, or relay.helo_name, to the full name of this machine, such as mail.example.org"},
	{regexp.MustCompile(`(?i)helo command rejected: host not found`), All,
		"the hop does not find the name {name}, of EHLO, in the DNS: add an address for it there, or set relay.helo_name to a name that has one"},
	{regexp.MustCompile(`(?i)helo command rejected`), All,
		"the hop has a rule against the name {name} in EHLO: let it permit {network} before (Postfix: permit_mynetworks first in smtpd_helo_restrictions)"},
	{regexp.MustCompile(`(?i)sender address rejected: not owned by`), All,
		"the hop lets the user of relay.credentials send with its own addresses only: permit it every sender (Postfix: smtpd_sender_login_maps)"},
	{regexp.MustCompile(`(?i)(client host|sender address|recipient address) rejected: access denied|sender address rejected: not logged in`), All,
		"the hop requires a login: connect to a port that trusts {own}, which for Postfix is its port 25 or one for postern, " +
			"or name a file with user and password in relay.credentials"},
	{regexp.MustCompile(`(?i)client host rejected: cannot find your (reverse )?hostname`), All,
		"the hop requires a name in the DNS for {own}: add {network} to its mynetworks, and permit_mynetworks before its reject_unknown_client_hostname"},
	{regexp.MustCompile(`(?i)(sender address|recipient address|helo command|client host name)\b.*\bblocked using`), All,
		"the hop asks a blocklist about the names in a message: let it permit {network} before (Postfix: permit_mynetworks)"},
	{regexp.MustCompile(`(?i)\bblocked using\b|\b(is|are|been|was|currently) listed (at|in|by|on)\b|\bblack-?list|\bblock-?list`), All,
		"the hop asks a blocklist about {own}: let it permit {network} before (Postfix: permit_mynetworks)"},
	{regexp.MustCompile(`(?i)server configuration problem($| [^-])`), All, // smtpd_policy_service_default_action
		"a policy service of the hop does not answer: start it, or take its check_policy_service out of the hop's restrictions"},
	{regexp.MustCompile(`(?i)server configuration (error|problem)|temporary lookup failure|queue file write error|\binternal error\b`), All,
		"the hop has an error of its own: look for it in the log of the hop (Postfix: journalctl -u postfix@-)"},
	{regexp.MustCompile(`(?i)\b4\.3\.0\b.*server local error`), All,
		"this port of the hop expects the PROXY protocol (Postfix: smtpd_upstream_proxy_protocol): name one without it in relay.next_hops"},
	{regexp.MustCompile(`(?i)^RCPT\S* (450 4|550 5)\.3\.2 service currently unavailable`), All,
		"this port of the hop has postscreen, which is for strangers: add {network} to its mynetworks, which its postscreen_access_list permits, or name another port"},
	{regexp.MustCompile(`(?i)insufficient system (storage|resources)|\b4\.3\.1\b`), All,
		"the disk of the hop is full: make room for its queue (Postfix: queue_minfree)"},
	{regexp.MustCompile(`(?i)service unavailable - try again later`), All,
		"a milter of the hop does not answer: start it, or take it out of the hop's smtpd_milters"},
	{regexp.MustCompile(`(?i)\b5\.1\.10\b|null ?mx|does not accept mail`), None,
		"the domain accepts no mail, so this is right; name another address with --to"},
	{regexp.MustCompile(`(?i)\bgr[ae]y-?list`), None,
		"greylisting is for strangers: let the hop permit {network} before it, or every new recipient is delayed"},
	{regexp.MustCompile(`(?i)verification in progress`), None,
		"the hop verifies addresses first, so this may change in a minute"},
	{regexp.MustCompile(`(?i)unverified (recipient|address|sender)|address verification`), None,
		"the hop has verified this address and names the result; if it is wrong, look for the reason in the log of the hop (Postfix: status=undeliverable)"},
	{regexp.MustCompile(`(?i)^RCPT@(` + regexp.QuoteMeta(reserved) + `) .*(domain|host) not found`), Some,
		"{reserved} exists, so the DNS of the hop does not work: correct its /etc/resolv.conf and, if its smtpd runs in a chroot, the copy there (Postfix: postfix reload)"},
	{regexp.MustCompile(`(?i)^RCPT\S* .*\b[45]\.1\.2\b.*(domain|host) not found|^RCPT\S* 5.*domain not found`), None,
		"the hop finds no such domain in the DNS; if other domains exist for it, name an address of one of them with --to"},
	{regexp.MustCompile(`(?i)^RCPT\S* .*(\b[45]\.1\.1\b|user unknown|unknown user|no such user|no mailbox)`), None,
		"the hop has no such user; RFC 5321, section 4.5.1, requires a postmaster for every domain that accepts mail"},
	{regexp.MustCompile(`(?i)^MAIL .*domain not found|^MAIL .*\b[45]\.1\.8\b`), Some,
		"the hop does not find the domain of the sender in the DNS: set server.origin to the domain of your users"},
	{regexp.MustCompile(`\b4\.5\.3\b`), None,
		"the hop takes few recipients for one message; raise the number (Postfix: smtpd_recipient_limit)"},
	{regexp.MustCompile(`(?i)\b4\.7\.1\b.*\b(rate|limit(s|ed)?|too many)\b|\b4\.4\.5\b|too (many|much)\b`), None,
		"the hop limits the rate; exempt {network} (Postfix: smtpd_client_event_limit_exceptions)"},
	{regexp.MustCompile(`(?i)\b4\.\d\.\d\b.*\btry (again|later)`), None,
		"the hop wants another try later, as greylisting does: let it permit {network} before that, or every new recipient is delayed"},
}

// reserved is a domain that exists for documentation (RFC 2606, section 3).
const reserved = "example.net"

// name matches what a reply quotes: addresses, URLs and names of hosts, whose words say nothing about the cause.
var name = regexp.MustCompile(`<[^>]*>|\S+://\S+|\S*@\S+|[\w-]+(\.[\w-]+)*\.[A-Za-z][\w-]+`)

// plain returns the verb of a command and the reply without the names in it.
func plain(command, reply string) string {
	verb, _, _ := strings.Cut(command, " ")
	if strings.HasSuffix(command, "@"+reserved+">") {
		verb += "@" + reserved
	}
	return verb + " " + name.ReplaceAllLiteralString(reply, "<>")
}

// explain sets Reach and Step for the replies that are known. first is the first line of the
// reply: it has the reason, and others may be a text for all replies (Postfix:
// smtpd_reject_footer).
func (p *peer) explain(r *Refused, first string, own netip.Addr) {
	r.Reach, r.Step = Some, "look for the reason in the log of the hop"
search:
	for _, reply := range []string{first, r.Reply} {
		text := plain(r.Command, reply)
		for _, known := range knownRefusals {
			if known.pattern.MatchString(text) {
				r.Reach, r.Step = known.reach, known.step
				break search
			}
		}
	}
	address, network := "this machine", "the address of this machine"
	switch {
	case own.IsValid():
		address, network = own.String(), networkOf(own)
	case p.url.Network() == "unix":
		network = "127.0.0.1, as which Postfix sees the clients of a Unix socket,"
	}
	r.Step = strings.NewReplacer("{own}", address, "{network}", network, "{name}", p.helo, "{reserved}", reserved).Replace(r.Step)
}

// networkOf returns an address in the syntax of mynetworks.
func networkOf(a netip.Addr) string {
	a = a.WithZone("")
	if a.Is6() {
		return "[" + a.String() + "]/128"
	}
	return a.String()
}
