package policy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"
	"golang.org/x/net/idna"

	"postern/policy/lookup"
)

// checkAccess is check_sender_access and check_recipient_access: reply is stageSender or
// stageRecipient.
type checkAccess struct {
	base
	table lookup.Table
	// rules are the parsed values of a table that is known as a whole. The values of other
	// tables are parsed when they are looked up.
	rules map[string]rule
}

func newSenderAccess(args []string, b base) (Restriction, error) {
	b.reply = stageSender
	return newCheckAccess(args[0], b)
}

func newRecipientAccess(args []string, b base) (Restriction, error) {
	b.reply = stageRecipient
	return newCheckAccess(args[0], b)
}

// newCheckAccess opens the table and parses the values that it already knows, so that an
// action that does not exist is found at start and not when a client needs it.
func newCheckAccess(name string, b base) (Restriction, error) {
	t, err := b.openTable(name)
	if err != nil {
		return nil, err
	}
	c := &checkAccess{base: b, table: t, rules: make(map[string]rule)}
	lister, ok := t.(lookup.Lister)
	if !ok {
		return c, nil
	}
	first := lookup.Entry{}
	for e := range lister.Entries() {
		if _, known := c.rules[e.Value]; known {
			continue
		}
		rule, ruleErr := c.parseRule(e.Value)
		switch {
		case ruleErr == nil:
			c.rules[e.Value] = rule
		case err == nil, e.Number < first.Number:
			first, err = e, ruleErr
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s, key %q: %w", t, first.Place(), first.Key, err)
	}
	return c, nil
}

// mayPermit reports whether an entry of the table may permit a client. It is for OpenRelay.
func (c *checkAccess) mayPermit() bool {
	if _, ok := c.table.(lookup.Lister); !ok {
		return true
	}
	for _, r := range c.rules {
		if r.action == Permit || r.permits {
			return true
		}
	}
	return false
}

// nullSender is the key for the null sender: Postfix's smtpd_null_access_lookup_key.
const nullSender = "<>"

// Check looks the address up in the form that was completed with the origin. Replies repeat
// the address as it was sent.
func (c *checkAccess) Check(ctx context.Context, r *Request) Verdict {
	address, sent := r.Sender, r.senderSent()
	if c.reply == stageRecipient {
		address, sent = r.Recipient, r.recipientSent()
		if address == "" {
			return Verdict{} // no single recipient
		}
	}
	key, value, err := c.find(ctx, address)
	if err != nil {
		v := refuse(451, smtp.EnhancedCode{4, 3, 5}, rejected(sent, c.reply.replyClass(), "Server configuration error"))
		v.Cause = fmt.Errorf("look up %q in %s: %w", key, c.table, err)
		return v
	}
	if key == "" {
		return Verdict{}
	}
	rule, ok := c.rules[value]
	if !ok {
		if rule, err = c.parseRule(value); err != nil {
			v := refuse(451, smtp.EnhancedCode{4, 3, 5}, "Server configuration error")
			v.Cause = fmt.Errorf("entry %q of %s: %w", key, c.table, err)
			return v
		}
	}
	v := rule.verdict(c, sent)
	v.Entry = key + " " + value
	local, _ := splitAddress(address)
	if c.reply == stageRecipient && sourceRouted(local) {
		// The key may match the domain only, and the next hop may send the message to
		// the route in the local part. Postfix ignores such a permit too.
		if v.Action == Permit {
			v.Action = Dunno
		}
		if v.sub != nil {
			v.sub = &sublist{list: v.sub.list, noPermit: true}
		}
	}
	return v
}

// find returns the first key of the address that is in the table, or "" if none is. After an
// error, key is the one that was looked up.
func (c *checkAccess) find(ctx context.Context, address string) (key, value string, err error) {
	if address == "" {
		value, found, err := c.table.Lookup(ctx, nullSender)
		if err != nil || found {
			return nullSender, value, err
		}
		return "", "", nil
	}
	for key := range accessKeys(address) {
		value, found, err := c.table.Lookup(ctx, key)
		if err != nil || found {
			return key, value, err
		}
	}
	return "", "", nil
}

// accessKeys returns the keys under which access(5) looks for an address, in the order of
// Postfix: user@domain, domain, parent domains, user@. Postfix's default
// parent_domain_matches_subdomains contains smtpd_access_maps, so that the key example.org
// matches subdomains, and .example.org is not looked up.
//
// A domain beyond ASCII is looked up as A-labels and as U-labels, whichever the client sent. A
// quoted local part is looked up quoted and unquoted, if it needs quotes at all. There is no
// recipient_delimiter here, so an address extension is a part of the user.
func accessKeys(address string) iter.Seq[string] {
	return func(yield func(string) bool) {
		local, domain := splitAddress(address)
		if domain == "" {
			return
		}
		plain := unquoteLocal(local)
		locals := twoForms(quoteLocal(plain), plain)
		domains := domainForms(domain)
		for _, d := range domains {
			for _, l := range locals {
				if !yield(l + "@" + d) {
					return
				}
			}
		}
		for {
			for i, d := range domains {
				if !yield(d) {
					return
				}
				_, domains[i], _ = strings.Cut(d, ".")
			}
			if domains[0] == "" {
				break
			}
		}
		for _, l := range locals {
			if !yield(l + "@") {
				return
			}
		}
	}
}

func twoForms(a, b string) []string {
	if a == b {
		return []string{a}
	}
	return []string{a, b}
}

// domainForms returns a domain as A-labels and, if that is another form, as U-labels. An
// address literal, and what is no domain name, has one form.
func domainForms(domain string) []string {
	name, ok := asciiDomain(domain)
	if !ok {
		return []string{domain}
	}
	unicode, err := idna.Lookup.ToUnicode(name)
	if err != nil || strings.Count(unicode, ".") != strings.Count(name, ".") {
		return []string{name}
	}
	return twoForms(name, unicode)
}

// A rule is the parsed value of a table entry: an action, WARN, or a list of restrictions.
type rule struct {
	action   Action
	code     int // code, enhanced and text are the reply of an action that refuses
	enhanced smtp.EnhancedCode
	text     string // of WARN too
	warn     bool
	list     List // nil for an action
	permits  bool // list may permit
}

func (u *rule) verdict(c *checkAccess, sent string) Verdict {
	switch {
	case u.list != nil:
		return Verdict{sub: &sublist{list: u.list}}
	case u.warn:
		return Verdict{Warnings: []string{c.String() + ": WARN " + u.text}}
	case u.action == Permit, u.action == Dunno:
		return Verdict{Action: u.action}
	}
	v := refuse(u.code, u.enhanced, rejected(sent, c.reply.replyClass(), u.text))
	v.Action = u.action
	return v
}

// unavailable are the actions of access(5) that change a message, and those that are not
// documented for use, with what to do instead.
var unavailable = [...]struct{ name, instead string }{
	{"BCC", "recipients are not added here; use always_bcc or recipient_bcc_maps of the next hop"},
	{"DELAY", "it does not exist in Postfix any more; remove the entry"},
	{"DISCARD", "a message that is accepted is never dropped here; use REJECT"},
	{"FILTER", "transports are chosen by the next hop; keep this table there, in its smtpd_sender_restrictions or smtpd_recipient_restrictions"},
	{"HANGUP", "it is a test feature of Postfix; use \"421 4.7.0 TEXT\""},
	{"HOLD", "there is no hold queue here; keep this table in the restrictions of the next hop, or use DEFER"},
	{"INFO", "use WARN, which writes its text to the log"},
	{"PREPEND", "header fields are not added here; use header_checks of the next hop"},
	{"REDIRECT", "recipients are not changed here; use virtual_alias_maps of the next hop"},
}

// parseRule parses an action of access(5). Actions are compared without regard to case and
// come before restrictions of the same name, as in Postfix.
func (c *checkAccess) parseRule(value string) (rule, error) {
	name, text := value, ""
	if i := strings.IndexAny(value, " \t"); i >= 0 {
		name, text = value[:i], strings.TrimSpace(value[i:])
	}
	switch strings.ToUpper(name) {
	case "OK", "RELAY":
		return rule{action: Permit}, nil
	case "DUNNO":
		return rule{action: Dunno}, nil
	case "WARN":
		return rule{warn: true, text: text}, nil
	case "REJECT":
		return c.refusal(Reject, 554, smtp.EnhancedCode{5, 7, 1}, text, "Access denied")
	case "DEFER":
		return c.refusal(Defer, 450, smtp.EnhancedCode{4, 7, 1}, text, "Access denied")
	case "DEFER_IF_PERMIT":
		return c.refusal(DeferIfPermit, 450, smtp.EnhancedCode{4, 7, 1}, text, "Service unavailable")
	case "DEFER_IF_REJECT":
		return c.refusal(DeferIfReject, 450, smtp.EnhancedCode{4, 7, 1}, text, "Service unavailable")
	}
	for _, u := range unavailable {
		if strings.EqualFold(name, u.name) {
			return rule{}, fmt.Errorf("action %s is not available: %s", u.name, u.instead)
		}
	}
	if name != "" && strings.Trim(name, "0123456789") == "" {
		return c.parseNumber(name, text)
	}
	return c.sublist(c.base, value)
}

// parseNumber parses an action that begins with a number. A reply code without a text permits
// in Postfix, as every number does; here it is an error, since no entry is meant that way.
func (c *checkAccess) parseNumber(number, text string) (rule, error) {
	replyCode := len(number) == 3 && (number[0] == '4' || number[0] == '5')
	switch {
	case !replyCode && text == "":
		return rule{action: Permit}, nil // the time stamp of an authentication by other means
	case !replyCode:
		return rule{}, fmt.Errorf("%q is not a reply code that refuses; write \"5NN TEXT\" or \"4NN TEXT\"", number)
	case text == "":
		return rule{}, fmt.Errorf("%q permits in Postfix, as every number; write \"%[1]s TEXT\" to refuse, or OK", number)
	}
	code, _ := strconv.Atoi(number) // three digits
	action := Reject
	if code < 500 {
		action = Defer
	}
	return c.refusal(action, code, smtp.EnhancedCode{code / 100, 7, 1}, text, "Access denied")
}

// refusal builds a rule from a text that may begin with an enhanced code.
func (c *checkAccess) refusal(action Action, code int, enhanced smtp.EnhancedCode, text, standard string) (rule, error) {
	if given, rest, ok := cutEnhanced(text); ok {
		enhanced, text = given, rest
		enhanced[0] = code / 100 // the code has precedence
	}
	if text == "" {
		text = standard
	}
	return rule{action: action, code: code, enhanced: c.fitEnhanced(enhanced), text: text}, nil
}

// cutEnhanced splits an enhanced code (RFC 3463) from the text that follows it.
func cutEnhanced(text string) (code smtp.EnhancedCode, rest string, ok bool) {
	first := text
	if i := strings.IndexAny(text, " \t\r\n\v\f"); i >= 0 {
		first, rest = text[:i], text[i:]
	}
	parts := strings.Split(first, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || !strings.Contains("245", parts[0]) {
		return code, text, false
	}
	for i, p := range parts {
		if p == "" || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return code, text, false
		}
		for _, digit := range p {
			code[i] = code[i]*10 + int(digit-'0')
		}
	}
	return code, strings.TrimSpace(rest), true
}

// fitEnhanced replaces the X.1.Y codes about a recipient in a reply about a sender, and the
// reverse, as Postfix does.
func (c *checkAccess) fitEnhanced(code smtp.EnhancedCode) smtp.EnhancedCode {
	if code[1] != 1 {
		return code
	}
	forSender := [...]int{1: 7, 2: 8, 3: 7, 4: 7, 5: 0, 6: 7, 7: 7, 8: 8}
	forRecipient := [...]int{1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 3, 8: 2}
	to := forRecipient[:]
	if c.reply == stageSender {
		to = forSender[:]
	}
	if code[2] >= len(to) {
		code[2] = 0
	} else {
		code[2] = to[code[2]]
	}
	return code
}

// parseSublist parses a value that is a list of restrictions. As in Postfix, their replies name
// the address that was looked up, and they cannot have lookup tables.
func parseSublist(b base, value string) (rule, error) {
	if strings.Contains(value, ":") {
		return rule{}, fmt.Errorf("%q: a lookup table cannot be part of an action; put it into the list in the configuration", value)
	}
	words, err := parseWords(value)
	if err != nil {
		return rule{}, fmt.Errorf("%q is not an action: %w; actions are OK, DUNNO, REJECT, DEFER, DEFER_IF_PERMIT, DEFER_IF_REJECT, WARN, \"4NN TEXT\", \"5NN TEXT\" and restrictions", value, err)
	}
	if len(words) == 0 {
		return rule{}, errors.New("the entry has no action; write for example REJECT")
	}
	u := rule{list: make(List, 0, len(words))}
	for _, w := range words {
		sub := b
		sub.spelling, sub.looksAt = b.spelling+": "+w.Name, w.row().on
		r, err := sub.build(w)
		if err != nil {
			return rule{}, err
		}
		u.list = append(u.list, r)
		u.permits = u.permits || w.row().relaying == Permit
	}
	return u, nil
}
