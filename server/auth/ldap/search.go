package ldap

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/text"
	"postern/server/auth"
)

// noAttributes requests entries without attributes (RFC 4511, section 4.5.1.8).
const noAttributes = "1.1"

// everyEntry is the filter that matches every visible entry.
const everyEntry = "(objectClass=*)"

// A misconfigured error is a mistake in the configuration of postern or of the directory.
// Other servers would give the same answer, so they are not asked.
type misconfigured struct {
	what string
	err  error // or nil
}

func (m *misconfigured) Error() string {
	if m.err == nil {
		return m.what
	}
	return m.what + ": " + m.err.Error()
}

func (m *misconfigured) Unwrap() error { return m.err }

// find returns the entry of a login.
func (s *Store) find(ctx context.Context, a attempt) (*ldap.Entry, error) {
	filter, err := s.cfg.QueryFilter.fill(a.login)
	if err != nil {
		return nil, noSuchUser(err)
	}
	attribute := s.cfg.UserAttribute
	if attribute == "" {
		attribute = noAttributes
	}
	var found []*ldap.Entry
	err = s.servers.do(ctx, forSearches, a.known, func(c *conn) error {
		var err error
		found, err = c.search(query{s.cfg.SearchBase.text, s.cfg.Scope, filter, attribute})
		return err
	})
	if err != nil {
		return nil, err
	}
	switch {
	case len(found) == 0:
		return nil, &auth.Failure{Kind: auth.NoSuchUser, Store: Kind}
	case len(found) > 1:
		return nil, &misconfigured{what: fmt.Sprintf("the filter finds more than one entry, %q and %q; make query_filter narrower", clean(found[0].DN), clean(found[1].DN))}
	case found[0].DN == "":
		return nil, &misconfigured{what: "the filter finds an entry without a DN; make query_filter narrower"}
	}
	return found[0], nil
}

// canonical returns the canonical name of the user. Several values would be several
// users, since their order is not defined.
func (s *Store) canonical(e *ldap.Entry, login string) (string, error) {
	if s.cfg.UserAttribute == "" {
		return strings.ToLower(login), nil
	}
	values := e.GetEqualFoldAttributeValues(s.cfg.UserAttribute)
	if len(values) != 1 {
		return "", &misconfigured{what: fmt.Sprintf("the entry %q has %d readable values of %s; set user_attribute to an attribute with exactly one",
			clean(e.DN), len(values), s.cfg.UserAttribute)}
	}
	if !text.ValidName(values[0], maxName) {
		return "", &misconfigured{what: fmt.Sprintf("in the entry %q the value of %s is not a valid user name", clean(e.DN), s.cfg.UserAttribute)}
	}
	return values[0], nil
}

// A query is one search.
type query struct {
	base      string
	scope     Scope
	filter    string
	attribute string
}

// search returns at most two entries, which is enough to detect an ambiguous filter.
func (c *conn) search(q query) ([]*ldap.Entry, error) {
	const limit = 2
	result, err := c.ldap.Search(ldap.NewSearchRequest(
		q.base, q.scope.level, ldap.NeverDerefAliases, limit, 0, false, q.filter, []string{q.attribute}, nil))
	switch {
	case err == nil:
		return result.Entries, nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) && result != nil && len(result.Entries) >= limit:
		return result.Entries, nil
	}
	return nil, explainSearch(q, err)
}

// explainSearch adds the likely cause and the remedy to the error of a search.
func explainSearch(q query, err error) error {
	hints := map[uint16]string{
		ldap.LDAPResultNoSuchObject:             "the server has no entry %q, or hides it from the account that searches; check search_base and bind_dn",
		ldap.LDAPResultInsufficientAccessRights: "the account that searches has no right to search %q; set bind_dn to another one",
		ldap.LDAPResultOperationsError:          "the server may not allow an anonymous search of %q; set bind_dn to an account",
		ldap.LDAPResultReferral:                 "the server refers to another one for %q; name that one in server_host, since referrals are not followed",
		ldap.LDAPResultSizeLimitExceeded:        "the server finds more entries below %q than it returns; make query_filter narrower",
	}
	e, ok := errors.AsType[*ldap.Error](err)
	if !ok || hints[e.ResultCode] == "" {
		return err
	}
	return &misconfigured{fmt.Sprintf(hints[e.ResultCode], clean(q.base)), err}
}

// entry reads one attribute of an entry, which must exist.
func (c *conn) entry(dn, attribute string) (*ldap.Entry, error) {
	found, err := c.search(query{dn, Scope{ldap.ScopeBaseObject}, everyEntry, attribute})
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, &misconfigured{what: fmt.Sprintf("the account that searches cannot read the entry %q", clean(dn))}
	}
	return found[0], nil
}

// enabled returns nil if the filter for disabled accounts does not match the entry. It first
// searches with the negated filter: a filter on a hidden attribute is undefined (RFC 4511,
// section 4.5.1.7), and then neither the filter nor its negation matches.
func (c *conn) enabled(dn string, disabled Filter) error {
	if disabled.text == "" {
		return nil
	}
	enabled, err := c.matches(dn, "(!"+disabled.text+")")
	if err != nil || enabled {
		return err
	}
	isDisabled, err := c.matches(dn, disabled.text)
	switch {
	case err != nil:
		return err
	case isDisabled:
		return &auth.Failure{Kind: auth.Disabled, Store: Kind, Reason: "disabled_filter matches"}
	}
	return &misconfigured{what: fmt.Sprintf("the server does not show whether disabled_filter matches the entry %q; "+
		"give the account that searches read access to its attributes", clean(dn))}
}

func (c *conn) matches(dn, filter string) (bool, error) {
	found, err := c.search(query{dn, Scope{ldap.ScopeBaseObject}, filter, noAttributes})
	return len(found) > 0, err
}
