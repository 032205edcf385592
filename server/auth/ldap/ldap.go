// Package ldap authenticates the users of an LDAP directory (RFC 4511): OpenLDAP, 389
// Directory Server, FreeIPA, Active Directory and others. Its [Store] has the ability
// [auth.PasswordVerifier].
//
// A password is checked by a simple bind (RFC 4513, section 5.1.3) with the DN of the
// user's entry. There are two ways to find the DN:
//
//   - With user_dn it is built from the login. A refused bind does not show whether the
//     entry exists, so the answer is [auth.Unknowable]. If user_dn is the name of an account in
//     Active Directory, "Who am I?" (RFC 4532) after the bind returns the account.
//   - Otherwise query_filter finds the entry, in a search with the rights of bind_dn or of
//     an anonymous client. No entry is [auth.NoSuchUser]. More than one is a mistake in
//     the configuration, and therefore a temporary error.
//
// Package ldapclient has the connections, the choice among the servers, the searches, and their
// bounds. It inserts the client's input as a value into a filter or a DN, escaped. An empty
// password is never sent, since RFC 4513, section 5.1.2 makes that an "unauthenticated bind",
// which succeeds.
//
// After the right password the answer is [auth.Disabled] if disabled_filter matches the
// entry or the server reports it, and [auth.Expired] if the server reports an expired
// password; bind.go lists the reports of each server. If the server hides the attributes
// of disabled_filter, no login succeeds.
//
// The canonical user is the value of user_attribute. Directories ignore case, width and
// blanks when they compare names, so many logins find the same entry. Without
// user_attribute the canonical user is therefore the login in lower case, and non-ASCII
// logins are refused.
//
// A directory may lock an account after a few wrong passwords. So a bind that has been sent is not
// repeated, neither on another connection nor at another server, and after a refusal of Active
// Directory no other form of the password is tried: see bind.go.
//
// If the search finds no entry, the answer takes as long as one for a wrong password: delay.go.
// With user_dn it is the server that must take the same time for every name.
//
// Every wait ends with the caller's ctx. Left out are SASL binds and what ldapclient leaves out.
package ldap

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"postern/internal/ldapclient"
	"postern/internal/semaphore"
	"postern/internal/text"
	"postern/server/auth"
	"postern/server/auth/hash"
)

// Kind is the kind of this store in the configuration, and its default name in the log.
const Kind = "ldap"

// A Store verifies passwords with a directory. It may be used by many goroutines at
// once, and must be closed.
type Store struct {
	cfg    Config
	client *ldapclient.Client
	binds  bindTimes
}

var _ auth.PasswordVerifier = (*Store)(nil)

// New returns a store. It reads the password and the certificates of cfg, which is valid.
// It does not connect, so it succeeds while the directory is down.
func New(cfg Config, events auth.Events) (*Store, error) {
	client, err := ldapclient.New(cfg.Config, serverEvents{events})
	if err != nil {
		return nil, err
	}
	return &Store{cfg: cfg, client: client}, nil
}

// serverEvents passes the events of a client to auth.Events.
type serverEvents struct{ auth.Events }

func (e serverEvents) ServerDown(server string, err error) { e.LDAPServerDown(server, err) }
func (e serverEvents) ServerUp(server string)              { e.LDAPServerUp(server) }

// Close closes the idle connections now, and the others when they are released.
func (s *Store) Close() error {
	s.client.Close()
	return nil
}

// IgnoresDomain reports whether a user may log in with any domain; see [auth.Backend].
func (s *Store) IgnoresDomain() bool { return s.cfg.ignoresDomain() }

// Check opens a new connection to every server, binds as the service account, and reads
// the entry of search_base. The error has a line for each server that fails.
func (s *Store) Check(ctx context.Context) error { return s.client.Check(ctx, s.cfg.SearchBase) }

// VerifyPassword implements auth.PasswordVerifier.
func (s *Store) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (auth.Identity, error) {
	if f := s.precheck(login, password); f != nil {
		return auth.Identity{}, f
	}
	verify := s.searchAndBind
	if s.cfg.UserDN.text != "" {
		verify = s.bindDirectly
	}
	user, err := verify(ctx, attempt{login, password, p.Turn(login)})
	if f, ok := errors.AsType[*auth.Failure](err); ok {
		return auth.Identity{}, f
	}
	if err != nil {
		return auth.Identity{}, &auth.Unavailable{Store: Kind, Err: err}
	}
	return auth.Identity{User: user, Store: Kind}, nil
}

// An attempt is one login.
type attempt struct {
	login, password string
	turn            semaphore.Turn
}

// bindDirectly verifies a password with user_dn.
func (s *Store) bindDirectly(ctx context.Context, a attempt) (user string, err error) {
	name, ok := s.cfg.UserDN.fill(a.login)
	if !ok {
		return "", noSuchUser(errNoDomain)
	}
	err = s.do(ctx, ldapclient.ForBinds, a, func(c *ldapclient.Conn) error {
		if err := bind(ctx, c, name, a.password, auth.Unknowable); err != nil {
			return err
		}
		if s.cfg.UserDN.account {
			user, err = s.identify(c)
			return err
		}
		user, err = s.read(c, name, a.login)
		return err
	})
	return user, err
}

// identify returns the user as which a connection is bound. Active Directory accepts many names
// of one account, so the name of the bind is not that of the user.
func (s *Store) identify(c *ldapclient.Conn) (user string, err error) {
	who, err := c.WhoAmI()
	if err != nil {
		return "", err
	}
	if s.cfg.UserAttribute == "" && s.cfg.DisabledFilter.text == "" && who.Name != "" {
		return who.Name, nil
	}
	dn, err := c.FindDN(who)
	if err != nil {
		return "", err
	}
	if s.cfg.UserAttribute == "" && who.Name == "" {
		return "", &ldapclient.ConfigError{What: fmt.Sprintf("the server has no name of the account %q but its DN", ldapclient.Clean(dn)), Step: "set user_attribute"}
	}
	return s.read(c, dn, who.Name)
}

// read returns the canonical name of the user of an entry, which must be enabled. login is the
// name without user_attribute.
func (s *Store) read(c *ldapclient.Conn, dn, login string) (string, error) {
	if err := s.enabled(c, dn); err != nil {
		return "", err
	}
	if s.cfg.UserAttribute == "" {
		if s.cfg.UserDN.account {
			return login, nil
		}
		return strings.ToLower(login), nil
	}
	e, err := c.Entry(dn, s.cfg.UserAttribute)
	if err != nil {
		return "", err
	}
	return s.canonical(e, login)
}

// searchAndBind verifies a password with query_filter.
func (s *Store) searchAndBind(ctx context.Context, a attempt) (string, error) {
	began := time.Now()
	e, err := s.find(ctx, a)
	if _, ok := errors.AsType[*auth.Failure](err); ok {
		if err := s.imitateBind(ctx, a, time.Since(began)); err != nil {
			return "", err
		}
	}
	if err != nil {
		return "", err
	}
	err = s.do(ctx, ldapclient.ForBinds, a, func(c *ldapclient.Conn) error {
		began := time.Now()
		err := bind(ctx, c, e.DN, a.password, auth.BadPassword)
		s.binds.add(e.DN, time.Since(began), err)
		return err
	})
	if err != nil {
		return "", err
	}
	if s.cfg.DisabledFilter.text != "" {
		err := s.do(ctx, ldapclient.ForSearches, a, func(c *ldapclient.Conn) error {
			return s.enabled(c, e.DN)
		})
		if err != nil {
			return "", err
		}
	}
	return s.canonical(e, a.login)
}

// do calls op with a connection. A failure of the login is not a failure of the server, so the
// client does not get it.
func (s *Store) do(ctx context.Context, p ldapclient.Purpose, a attempt, op func(*ldapclient.Conn) error) error {
	var failure *auth.Failure
	err := s.client.Do(ctx, p, a.turn, func(c *ldapclient.Conn) (err error) {
		err = op(c)
		if f, ok := errors.AsType[*auth.Failure](err); ok {
			failure = f
			return nil
		}
		return err
	})
	if err == nil && failure != nil {
		return failure
	}
	return err
}

// find returns the entry of a login.
func (s *Store) find(ctx context.Context, a attempt) (e ldapclient.Entry, err error) {
	filter, ok := loginVariables.FillFilter(s.cfg.QueryFilter.text, a.login)
	if !ok {
		return e, noSuchUser(errNoDomain)
	}
	// Two entries are enough to detect an ambiguous filter.
	q := ldapclient.Query{Base: s.cfg.SearchBase.String(), Scope: s.cfg.Scope, Filter: filter, Limit: 2}
	if s.cfg.UserAttribute != "" {
		q.Attributes = []string{s.cfg.UserAttribute}
	}
	found, err := s.client.Search(ctx, a.turn, q)
	if err != nil {
		return e, err
	}
	switch {
	case len(found) == 0:
		return e, &auth.Failure{Kind: auth.NoSuchUser, Store: Kind}
	case len(found) > 1:
		return e, &ldapclient.ConfigError{What: fmt.Sprintf("the filter finds more than one entry, %q and %q; make query_filter narrower",
			ldapclient.Clean(found[0].DN), ldapclient.Clean(found[1].DN))}
	case found[0].DN == "":
		return e, &ldapclient.ConfigError{What: "the filter finds an entry without a DN; make query_filter narrower"}
	}
	return found[0], nil
}

// canonical returns the canonical name of the user. Several values would be several
// users, since their order is not defined.
func (s *Store) canonical(e ldapclient.Entry, login string) (string, error) {
	if s.cfg.UserAttribute == "" {
		return strings.ToLower(login), nil
	}
	values := e.Values(s.cfg.UserAttribute)
	if len(values) != 1 {
		return "", &ldapclient.ConfigError{What: fmt.Sprintf("the entry %q has %d readable values of %s; set user_attribute to an attribute with exactly one",
			ldapclient.Clean(e.DN), len(values), s.cfg.UserAttribute)}
	}
	if !text.ValidName(values[0], maxName) {
		return "", &ldapclient.ConfigError{What: fmt.Sprintf("in the entry %q the value of %s is not a valid user name", ldapclient.Clean(e.DN), s.cfg.UserAttribute)}
	}
	return values[0], nil
}

// enabled returns nil if the filter for disabled accounts does not match the entry. It first
// searches with the negated filter: a filter on a hidden attribute is undefined (RFC 4511,
// section 4.5.1.7), and then neither the filter nor its negation matches.
func (s *Store) enabled(c *ldapclient.Conn, dn string) error {
	disabled := s.cfg.DisabledFilter.text
	if disabled == "" {
		return nil
	}
	enabled, err := c.Matches(dn, "(!"+disabled+")")
	if err != nil || enabled {
		return err
	}
	isDisabled, err := c.Matches(dn, disabled)
	switch {
	case err != nil:
		return err
	case isDisabled:
		return &auth.Failure{Kind: auth.Disabled, Store: Kind, Reason: "disabled_filter matches"}
	}
	return &ldapclient.ConfigError{What: fmt.Sprintf("the server does not show whether disabled_filter matches the entry %q; "+
		"give the account that searches read access to its attributes", ldapclient.Clean(dn))}
}

// precheck refuses logins and passwords that must not or need not be sent to a server.
// The mechanisms have refused most of them already. It is repeated here because a server
// would accept an empty password.
func (s *Store) precheck(login, password string) *auth.Failure {
	switch {
	case password == "":
		return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "empty password"}
	case len(password) > maxPassword:
		return &auth.Failure{Kind: auth.Unknowable, Store: Kind, Reason: fmt.Sprintf("the password is longer than %d octets", maxPassword)}
	case !text.ValidName(login, maxName):
		return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: "not a valid name"}
	case s.cfg.UserAttribute == "" && !s.cfg.UserDN.account && strings.ContainsFunc(login, notPlain):
		return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: "the name has blanks or is not ASCII, which needs user_attribute"}
	}
	return nil
}

// maxPassword is the longest password that is sent to a server, in octets. It bounds the
// cost of hashing there, since some schemes of crypt(3) are slow for long passwords.
const maxPassword = hash.MaxPassword

// maxName is the longest name of a user, in bytes.
const maxName = 1024

// notPlain matches characters that the string preparation of directories (RFC 4518) may
// change.
func notPlain(r rune) bool { return r <= ' ' || r >= 0x7f }

// noSuchUser returns the failure of a login that cannot be the name of a user.
func noSuchUser(err error) error {
	return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: err.Error(), Err: err}
}
