package policy

import (
	"strconv"
	"strings"

	"postern/policy/lookup"
)

// An entry is one row of the table of restrictions.
type entry struct {
	name string
	args []argument // that follow the name in a list; nil for none
	on   subject
	// always is how the restriction ends every list, Dunno if it depends on the request.
	// relaying is how it ends the list for an unauthorized client and a foreign
	// destination; Permit means that it may permit them.
	always, relaying Action
	make             constructor
}

// A constructor builds a restriction. args are as many as its row asks for.
type constructor func(args []string, b base) (Restriction, error)

// An argument is a value that follows the name of a restriction.
type argument struct {
	what    string // for the error if it is missing
	example string
	check   func(string) error
}

// oneTable is the argument of check_..._access.
var oneTable = []argument{{
	what:    "a lookup table",
	example: "texthash:/etc/postern/senders or inline:{example.org=REJECT}",
	check: func(name string) error {
		_, err := lookup.Parse(name)
		return err
	},
}}

// table is every restriction that exists.
var table = [...]entry{
	{"permit", nil, onNothing, Permit, Permit, plain[permit]},
	{"reject", nil, onNothing, Reject, Reject, plain[reject]},
	{"defer", nil, onNothing, Defer, Defer, plain[deferAll]},

	{"permit_mynetworks", nil, onClient, Dunno, Dunno, plain[permitMyNetworks]},
	{"permit_sasl_authenticated", nil, onLogin, Dunno, Dunno, plain[permitSASLAuthenticated]},
	{"reject_plaintext_session", nil, onClient, Dunno, Dunno, plain[rejectPlaintextSession]},

	{"reject_invalid_helo_hostname", nil, onHelo, Dunno, Dunno, plain[rejectInvalidHeloHostname]},
	{"reject_invalid_hostname", nil, onHelo, Dunno, Dunno, plain[rejectInvalidHeloHostname]}, // before Postfix 2.3
	{"reject_non_fqdn_helo_hostname", nil, onHelo, Dunno, Dunno, plain[rejectNonFQDNHeloHostname]},
	{"reject_non_fqdn_hostname", nil, onHelo, Dunno, Dunno, plain[rejectNonFQDNHeloHostname]}, // before Postfix 2.3

	{"check_sender_access", oneTable, onSender, Dunno, Permit, newSenderAccess},
	{"reject_multi_recipient_bounce", nil, onSender, Dunno, Dunno, plain[rejectMultiRecipientBounce]},
	{"reject_non_fqdn_sender", nil, onSender, Dunno, Dunno, plain[rejectNonFQDNSender]},
	{"reject_unknown_sender_domain", nil, onSender, Dunno, Dunno, plain[rejectUnknownSenderDomain]},

	{"check_recipient_access", oneTable, onRecipient, Dunno, Permit, newRecipientAccess},
	{"defer_unauth_destination", nil, onRecipient, Dunno, Defer, plain[deferUnauthDestination]},
	{"permit_auth_destination", nil, onRecipient, Dunno, Dunno, plain[permitAuthDestination]},
	{"reject_non_fqdn_recipient", nil, onRecipient, Dunno, Dunno, plain[rejectNonFQDNRecipient]},
	{"reject_unauth_destination", nil, onRecipient, Dunno, Reject, plain[rejectUnauthDestination]},
	{"reject_unknown_recipient_domain", nil, onRecipient, Dunno, Dunno, plain[rejectUnknownRecipientDomain]},
}

// plain builds a restriction that has no arguments.
func plain[R interface {
	~struct{ base }
	Restriction
}](_ []string, b base) (Restriction, error) {
	return R(struct{ base }{b}), nil
}

// find returns the row of a name, without regard to case, or nil.
func find(name string) *entry {
	for i := range table {
		if strings.EqualFold(table[i].name, name) {
			return &table[i]
		}
	}
	return nil
}

// names are all words that a list may contain.
func names() []string {
	all := []string{warnIfRejectName}
	for i := range table {
		all = append(all, table[i].name)
	}
	return all
}

// A subject is what a restriction looks at.
type subject uint8

const (
	onNothing subject = iota
	onClient
	onLogin
	onHelo
	onSender
	onRecipient
)

// of returns the subject's value in r, for Explain.
func (s subject) of(r *Request) string {
	switch s {
	case onClient:
		return "client " + r.Remote.Addr().Unmap().String()
	case onLogin:
		return "login " + strconv.Quote(r.Login)
	case onHelo:
		return "helo " + r.Helo
	case onSender:
		return "sender <" + r.Sender + ">"
	case onRecipient:
		return "recipient <" + r.Recipient + ">"
	}
	return ""
}

// A stage is the point in the life of a message at which a list is evaluated.
type stage uint8

const (
	stageClient stage = iota
	stageHelo
	stageSender
	stageRelay
	stageRecipient
	stageData
	stageEndOfData
	stageCount
)

// key is the stage's name in the configuration.
func (s stage) key() string {
	return [stageCount]string{
		"client", "helo", "sender", "relay", "recipient", "data", "end_of_data",
	}[s]
}

const (
	classClient    = "Client host"
	classHelo      = "Helo command"
	classSender    = "Sender address"
	classRecipient = "Recipient address"
)

// replyClass is what Postfix calls the subject of the stage.
func (s stage) replyClass() string {
	return [stageCount]string{
		classClient, classHelo, classSender, classRecipient, classRecipient,
		"Data command", "End-of-data",
	}[s]
}

// replyName is the subject of the stage in a reply.
func (s stage) replyName(r *Request) string {
	switch s {
	case stageClient:
		// Postfix calls a client without a host name "unknown". Host names of clients
		// are not looked up here.
		return "unknown[" + r.Remote.Addr().Unmap().String() + "]"
	case stageHelo:
		return r.Helo
	case stageSender:
		return r.senderSent()
	case stageRelay, stageRecipient:
		return r.recipientSent()
	case stageData:
		return "DATA"
	}
	return "END-OF-MESSAGE"
}

// hasRecipient reports whether there is a single recipient: at DATA there may be many.
func (s stage) hasRecipient() bool { return s < stageData }
