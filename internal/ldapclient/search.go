package ldapclient

import (
	"errors"
	"fmt"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/text"
)

// noAttributes requests entries without attributes (RFC 4511, section 4.5.1.8).
const noAttributes = "1.1"

// everyEntry is the filter that matches every visible entry.
const everyEntry = "(objectClass=*)"

// A Query is one search. Aliases are not followed.
type Query struct {
	Base       string // a DN
	Scope      Scope
	Filter     string
	Attributes []string // to return with the entries
	Limit      int      // maximum number of entries, at least 1
}

// An Entry is an entry that a search has found, with the attributes of the [Query].
type Entry struct {
	DN         string
	attributes *ldap.Entry
}

// Values returns the values of an attribute, in no particular order. The case of the name does
// not matter. There are none if the account may not read them.
func (e Entry) Values(attribute string) []string {
	return e.attributes.GetEqualFoldAttributeValues(attribute)
}

// Search returns at most q.Limit entries, also if there are more. A caller that needs exactly one
// sets 2 and checks the number.
func (c *Conn) Search(q Query) ([]Entry, error) {
	attributes := q.Attributes
	if len(attributes) == 0 {
		attributes = []string{noAttributes}
	}
	result, err := c.ldap.Search(ldap.NewSearchRequest(
		q.Base, int(q.Scope), ldap.NeverDerefAliases, q.Limit, 0, false, q.Filter, attributes, nil))
	cut := ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) && result != nil && len(result.Entries) >= q.Limit
	if err != nil && !cut {
		return nil, c.explainSearch(q, err)
	}
	found := make([]Entry, len(result.Entries))
	for i, e := range result.Entries {
		found[i] = Entry{e.DN, e}
	}
	return found, nil
}

// Entry reads attributes of one entry, which must exist.
func (c *Conn) Entry(dn string, attributes ...string) (Entry, error) {
	found, err := c.Search(Query{Base: dn, Scope: ScopeBase, Filter: everyEntry, Attributes: attributes, Limit: 2})
	if err != nil {
		return Entry{}, err
	}
	if len(found) != 1 {
		return Entry{}, &ConfigError{What: fmt.Sprintf("the account that searches cannot read the entry %q", Clean(dn))}
	}
	return found[0], nil
}

// Matches reports whether a filter matches one entry.
func (c *Conn) Matches(dn, filter string) (bool, error) {
	found, err := c.Search(Query{Base: dn, Scope: ScopeBase, Filter: filter, Limit: 2})
	return len(found) > 0, err
}

// answered reports whether err, or nil, is an answer that other servers would give as well.
// Otherwise another server may be asked.
func answered(err error) bool {
	if err == nil {
		return true
	}
	if _, ok := errors.AsType[*ConfigError](err); ok {
		return true
	}
	e, ok := errors.AsType[*ldap.Error](err)
	// Codes from 200 on are errors of the library.
	return ok && e.ResultCode < ldap.ErrorNetwork && e.ResultCode != ldap.LDAPResultBusy && e.ResultCode != ldap.LDAPResultUnavailable
}

// maxText bounds the text of a server in the log, in bytes.
const maxText = 200

// Clean makes a server's text safe for the log.
func Clean(s string) string { return text.Shorten(text.Printable(s, -1), maxText) }
