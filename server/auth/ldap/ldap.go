// Package ldap is the store of users for those who keep them in a directory:
// OpenLDAP, 389 Directory Server, FreeIPA, Active Directory, or any other
// server that speaks LDAP (RFC 4511).
//
// A password is checked by a simple bind (RFC 4513, section 5.1.3) as the
// entry of the user. There are two ways to its name:
//
//   - user_dn makes it from the login. A refusal by the server does not
//     show whether there is such an entry: the answer is auth.Unknowable.
//   - otherwise query_filter finds it, with the rights of bind_dn or of
//     an anonymous user. No entry is auth.NoSuchUser, more than one is a mistake in the
//     configuration and therefore a temporary error.
//
// What the client sends becomes a value in a filter or in a name, escaped as
// RFC 4515 and RFC 4514 want it; it never becomes syntax. An empty password is
// never sent: RFC 4513, section 5.1.2 makes it an "unauthenticated bind", which
// succeeds.
//
// A user who gave the right password gets auth.Disabled if disabled_filter
// matches the entry, or if the server reports it, and auth.Expired if the
// password is; see answer.go for what each server reports. If a server hides
// whether an account is disabled, no login succeeds.
//
// The canonical user is the value of user_attribute. Directories compare names
// without regard to case, width and blanks, so that many logins lead to one
// entry. Without user_attribute the canonical user is therefore the login in
// lower case, and non-ASCII logins are rejected.
//
// Connections are pooled in two kinds that never mix: those of the service
// account, and those on which users are bound. One of the latter is bound
// anonymously again before it goes back. A server that does not answer is asked last
// for a while. Every wait is bounded by the caller's ctx.
//
// Left out: SASL binds, client certificates, referrals (they are not followed),
// and aliases.
package ldap

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"postern/server/auth"
	"postern/server/auth/hash"
)

// Kind is what the configuration calls this store, and its name in the log.
const Kind = "ldap"

// A Store is a directory. It may be used by many goroutines at once.
type Store struct {
	cfg     Config
	servers *directory
	pace    pace
}

// New returns the store of cfg, which is valid. It reads the password and the
// certificates that cfg names, and does not connect yet: a directory that is
// down does not prevent the start.
func New(cfg Config, events auth.Events) (*Store, error) {
	servers, err := newDirectory(cfg, events)
	if err != nil {
		return nil, err
	}
	return &Store{cfg: cfg, servers: servers}, nil
}

// Close closes the unused connections, and the others when they are released.
func (s *Store) Close() error {
	s.servers.close()
	return nil
}

// VerifyPassword implements auth.PasswordVerifier.
func (s *Store) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (auth.Identity, error) {
	if f := s.hopeless(login, password); f != nil {
		return auth.Identity{}, f
	}
	verify := s.searchAndBind
	if s.cfg.UserDN.text != "" {
		verify = s.bindByName
	}
	user, err := verify(ctx, attempt{login, password, p.Known})
	if err != nil {
		return auth.Identity{}, asAuthError(err)
	}
	return auth.Identity{User: user, Store: Kind}, nil
}

// An attempt is one login.
type attempt struct {
	login, password string
	known           bool
}

// bindByName is the way of user_dn.
func (s *Store) bindByName(ctx context.Context, a attempt) (user string, err error) {
	dn, err := s.cfg.UserDN.fill(a.login)
	if err != nil {
		return "", nobody(err)
	}
	err = s.servers.do(ctx, forUsers, a.known, func(c *conn) error {
		if err := c.bindUser(dn, a.password, auth.Unknowable); err != nil {
			return err
		}
		if err := c.enabled(dn, s.cfg.DisabledFilter); err != nil {
			return err
		}
		user, err = s.ownName(c, dn, a.login)
		return err
	})
	return user, err
}

// ownName reads the canonical name from the entry, as the user that is bound.
func (s *Store) ownName(c *conn, dn, login string) (string, error) {
	if s.cfg.UserAttribute == "" {
		return strings.ToLower(login), nil
	}
	e, err := c.entry(dn, s.cfg.UserAttribute)
	if err != nil {
		return "", err
	}
	return s.canonical(e, login)
}

// searchAndBind is the way of query_filter.
func (s *Store) searchAndBind(ctx context.Context, a attempt) (string, error) {
	e, err := s.find(ctx, a)
	if err != nil {
		return "", s.pace.after(ctx, err)
	}
	began := time.Now()
	err = s.servers.do(ctx, forUsers, a.known, func(c *conn) error {
		return c.bindUser(e.DN, a.password, auth.BadPassword)
	})
	s.pace.saw(time.Since(began))
	if err != nil {
		return "", err
	}
	if s.cfg.DisabledFilter.text != "" {
		err := s.servers.do(ctx, forSearches, a.known, func(c *conn) error {
			return c.enabled(e.DN, s.cfg.DisabledFilter)
		})
		if err != nil {
			return "", err
		}
	}
	return s.canonical(e, a.login)
}

// hopeless refuses what must not or need not reach a server. The mechanisms
// have refused most of it already; it is repeated here because a server would
// accept an empty password.
func (s *Store) hopeless(login, password string) *auth.Failure {
	switch {
	case password == "":
		return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "empty password"}
	case len(password) > maxPassword:
		return &auth.Failure{Kind: auth.Unknowable, Store: Kind, Reason: fmt.Sprintf("the password is longer than %d octets", maxPassword)}
	case !usable(login):
		return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: "not a name"}
	case s.cfg.UserAttribute == "" && strings.ContainsFunc(login, notPlain):
		return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: "only user_attribute could tell whose name in other than ASCII this is"}
	}
	return nil
}

// maxPassword is the longest password that is sent to a server, in octets. The
// server hashes it, with one of the schemes of crypt(3) perhaps, and the bound
// limits what that costs.
const maxPassword = hash.MaxPassword

// maxName is the longest name of a user, in bytes.
const maxName = 1024

// usable reports whether a name may be logged, and compared with others.
func usable(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// notPlain finds what the string preparation of directories (RFC 4518) would
// make something else of.
func notPlain(r rune) bool { return r <= ' ' || r >= 0x7f }

// nobody returns the answer where the login cannot be the name of a user.
func nobody(err error) error {
	return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: err.Error(), Err: err}
}

// asAuthError returns a refusal as it is, and any other error as a temporary one.
func asAuthError(err error) error {
	if f, ok := errors.AsType[*auth.Failure](err); ok {
		return f
	}
	return &auth.Unavailable{Store: Kind, Err: err}
}
