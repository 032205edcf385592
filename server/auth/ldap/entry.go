package ldap

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"postern/server/auth"
)

// noAttributes asks for entries without their attributes (RFC 4511, section
// 4.5.1.8).
const noAttributes = "1.1"

// everyEntry is the filter that matches all that one may see.
const everyEntry = "(objectClass=*)"

// A misconfigured error is an answer that no other server would give
// differently: somebody has to mend the configuration, here or there.
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

// find looks for the one entry of a login.
func (s *Store) find(ctx context.Context, a attempt) (*ldap.Entry, error) {
	filter, err := s.cfg.QueryFilter.fill(a.login)
	if err != nil {
		return nil, nobody(err)
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
	return theOnly(found)
}

func theOnly(found []*ldap.Entry) (*ldap.Entry, error) {
	switch {
	case len(found) == 0:
		return nil, &auth.Failure{Kind: auth.NoSuchUser, Store: Kind}
	case len(found) > 1:
		return nil, &misconfigured{what: fmt.Sprintf("the filter finds more than one entry, %q and %q; make query_filter narrower", clean(found[0].DN), clean(found[1].DN))}
	case found[0].DN == "":
		return nil, &misconfigured{what: "the filter finds an entry without a name; make query_filter narrower"}
	}
	return found[0], nil
}

// canonical reads the name of the user. Two values would be two users, and which
// one comes first is not defined.
func (s *Store) canonical(e *ldap.Entry, login string) (string, error) {
	if s.cfg.UserAttribute == "" {
		return strings.ToLower(login), nil
	}
	values := e.GetEqualFoldAttributeValues(s.cfg.UserAttribute)
	if len(values) != 1 {
		return "", &misconfigured{what: fmt.Sprintf("the entry %q has %d values of %s that we may read; name an attribute in user_attribute that has one",
			clean(e.DN), len(values), s.cfg.UserAttribute)}
	}
	if !usable(values[0]) {
		return "", &misconfigured{what: fmt.Sprintf("in the entry %q the value of %s is no name for a user", clean(e.DN), s.cfg.UserAttribute)}
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

// search returns up to two entries: who gets two, asked for too much.
func (c *conn) search(q query) ([]*ldap.Entry, error) {
	const most = 2
	result, err := c.ldap.Search(ldap.NewSearchRequest(
		q.base, q.scope.level, ldap.NeverDerefAliases, most, 0, false, q.filter, []string{q.attribute}, nil))
	switch {
	case err == nil:
		return result.Entries, nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) && result != nil && len(result.Entries) >= most:
		return result.Entries, nil
	}
	return nil, explainSearch(q, err)
}

// explainSearch says what to do about an answer that is none.
func explainSearch(q query, err error) error {
	hints := map[uint16]string{
		ldap.LDAPResultNoSuchObject:             "the server has no entry %q, or hides it from the account that searches",
		ldap.LDAPResultInsufficientAccessRights: "the account that searches may not search %q; name another one in bind_dn",
		ldap.LDAPResultOperationsError:          "the server does not let everybody search %q, perhaps; name an account in bind_dn",
		ldap.LDAPResultReferral:                 "the server sends us to another one for %q; name that one in server_host, referrals are not followed",
		ldap.LDAPResultSizeLimitExceeded:        "the server finds more below %q than it shows; make query_filter narrower",
	}
	e, ok := errors.AsType[*ldap.Error](err)
	if !ok || hints[e.ResultCode] == "" {
		return err
	}
	return &misconfigured{fmt.Sprintf(hints[e.ResultCode], clean(q.base)), err}
}

// entry reads one attribute of an entry, which is expected to be there.
func (c *conn) entry(dn, attribute string) (*ldap.Entry, error) {
	found, err := c.search(query{dn, Scope{ldap.ScopeBaseObject}, everyEntry, attribute})
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, &misconfigured{what: fmt.Sprintf("the account that searches may not read the entry %q", clean(dn))}
	}
	return found[0], nil
}

// enabled looks whether the filter for disabled accounts matches. It is asked
// the other way round, for the filter of an attribute that is hidden from us
// is neither true nor false (RFC 4511, section 4.5.1.7), and matches neither way.
func (c *conn) enabled(dn string, disabled Filter) error {
	if disabled.text == "" {
		return nil
	}
	yes, err := c.matches(dn, "(!"+disabled.text+")")
	if err != nil || yes {
		return err
	}
	no, err := c.matches(dn, disabled.text)
	switch {
	case err != nil:
		return err
	case no:
		return &auth.Failure{Kind: auth.Disabled, Store: Kind, Reason: "disabled_filter matches"}
	}
	return &misconfigured{what: fmt.Sprintf("the server does not tell whether disabled_filter matches the entry %q; "+
		"let the account that searches read its attributes", clean(dn))}
}

func (c *conn) matches(dn, filter string) (bool, error) {
	found, err := c.search(query{dn, Scope{ldap.ScopeBaseObject}, filter, noAttributes})
	return len(found) > 0, err
}
