package policy

import "strings"

// An entry is one restriction of the table.
type entry struct {
	name string
	// on is the fact that the restriction looks at.
	on fact
	// always is how it ends every list, Dunno if it depends; relaying is how
	// it ends the list for one whom nobody vouches for and whose recipient is
	// not ours.
	always, relaying Action
	make             func(base) Restriction
}

// A fact is what a restriction looks at.
type fact uint8

const (
	onNothing fact = iota
	onClient
	onHelo
	onSender
	onRecipient
)

// table is every restriction that there is. One that takes arguments needs a
// column for their number here, and their values in its base.
var table = [...]entry{
	{"permit", onNothing, Permit, Permit, plain[permit]},
	{"reject", onNothing, Reject, Reject, plain[reject]},
	{"defer", onNothing, Defer, Defer, plain[deferAll]},

	{"permit_mynetworks", onClient, Dunno, Dunno, plain[permitMyNetworks]},
	{"permit_sasl_authenticated", onClient, Dunno, Dunno, plain[permitSASLAuthenticated]},
	{"reject_plaintext_session", onClient, Dunno, Dunno, plain[rejectPlaintextSession]},

	{"reject_invalid_helo_hostname", onHelo, Dunno, Dunno, plain[rejectInvalidHeloHostname]},
	{"reject_invalid_hostname", onHelo, Dunno, Dunno, plain[rejectInvalidHeloHostname]}, // before Postfix 2.3
	{"reject_non_fqdn_helo_hostname", onHelo, Dunno, Dunno, plain[rejectNonFQDNHeloHostname]},
	{"reject_non_fqdn_hostname", onHelo, Dunno, Dunno, plain[rejectNonFQDNHeloHostname]}, // before Postfix 2.3

	{"reject_multi_recipient_bounce", onSender, Dunno, Dunno, plain[rejectMultiRecipientBounce]},
	{"reject_non_fqdn_sender", onSender, Dunno, Dunno, plain[rejectNonFQDNSender]},
	{"reject_unknown_sender_domain", onSender, Dunno, Dunno, plain[rejectUnknownSenderDomain]},

	{"defer_unauth_destination", onRecipient, Dunno, Defer, plain[deferUnauthDestination]},
	{"permit_auth_destination", onRecipient, Dunno, Dunno, plain[permitAuthDestination]},
	{"reject_non_fqdn_recipient", onRecipient, Dunno, Dunno, plain[rejectNonFQDNRecipient]},
	{"reject_unauth_destination", onRecipient, Dunno, Reject, plain[rejectUnauthDestination]},
	{"reject_unknown_recipient_domain", onRecipient, Dunno, Dunno, plain[rejectUnknownRecipientDomain]},
}

// plain makes a restriction that needs no more than its base.
func plain[R interface {
	~struct{ base }
	Restriction
}](b base) Restriction {
	return R(struct{ base }{b})
}

// find returns the entry of a name, in whatever case, or nil.
func find(name string) *entry {
	for i := range table {
		if strings.EqualFold(table[i].name, name) {
			return &table[i]
		}
	}
	return nil
}

// entry is the word's line of the table, or an empty one.
func (w Word) entry() entry {
	if e := find(w.Name); e != nil {
		return *e
	}
	return entry{}
}

// names are all words that may stand in a list.
func names() []string {
	all := []string{warnIfRejectName}
	for i := range table {
		all = append(all, table[i].name)
	}
	return all
}
