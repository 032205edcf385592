// Package ldap authenticates the users of an LDAP directory (RFC 4511): OpenLDAP, 389
// Directory Server, FreeIPA, Active Directory and others. Its [Store] has the ability
// [auth.PasswordVerifier].
//
// A password is checked by a simple bind (RFC 4513, section 5.1.3) with the DN of the
// user's entry. There are two ways to find the DN:
//
//   - With user_dn it is built from the login. A refused bind does not show whether the
//     entry exists, so the answer is [auth.Unknowable].
//   - Otherwise query_filter finds the entry, in a search with the rights of bind_dn or of
//     an anonymous client. No entry is [auth.NoSuchUser]. More than one is a mistake in
//     the configuration, and therefore a temporary error.
//
// The client's input is only used as a value in a filter or a DN, escaped as RFC 4515 and
// RFC 4514 require. An empty password is never sent, since RFC 4513, section 5.1.2 makes
// that an "unauthenticated bind", which succeeds.
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
// Connections are pooled, at most connections of them for each server, in two separate
// sets: those bound as the service account, and those on which users are bound. The
// latter are bound anonymously before they return to the pool. A server that does not
// answer is tried last for a while. A response is limited in size, and every wait ends
// with the caller's ctx.
//
// Left out: SASL binds, client certificates, referrals and aliases.
package ldap

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"postern/internal/fileperm"
	"postern/internal/text"
	"postern/server/auth"
	"postern/server/auth/hash"
)

// Kind is the kind of this store in the configuration, and its default name in the log.
const Kind = "ldap"

// A Store verifies passwords with a directory. It may be used by many goroutines at
// once, and must be closed.
type Store struct {
	cfg     Config
	servers *directory
	delay   bindDelay
}

var _ auth.PasswordVerifier = (*Store)(nil)

// New returns a store. It reads the password and the certificates of cfg, which is valid.
// It does not connect, so it succeeds while the directory is down.
func New(cfg Config, events auth.Events) (*Store, error) {
	servers, err := newDirectory(cfg, events)
	if err != nil {
		return nil, err
	}
	return &Store{cfg: cfg, servers: servers}, nil
}

// Close closes the idle connections now, and the others when they are released.
func (s *Store) Close() error {
	s.servers.close()
	return nil
}

// VerifyPassword implements auth.PasswordVerifier.
func (s *Store) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (auth.Identity, error) {
	if f := s.precheck(login, password); f != nil {
		return auth.Identity{}, f
	}
	verify := s.searchAndBind
	if s.cfg.UserDN.text != "" {
		verify = s.bindDirectly
	}
	user, err := verify(ctx, attempt{login, password, p.Known})
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
	known           bool // see auth.Peer.Known
}

// bindDirectly verifies a password with user_dn.
func (s *Store) bindDirectly(ctx context.Context, a attempt) (user string, err error) {
	dn, err := s.cfg.UserDN.fill(a.login)
	if err != nil {
		return "", noSuchUser(err)
	}
	err = s.servers.do(ctx, forUsers, a.known, func(c *conn) error {
		if err := c.bindUser(dn, a.password, auth.Unknowable); err != nil {
			return err
		}
		if err := c.enabled(dn, s.cfg.DisabledFilter); err != nil {
			return err
		}
		if s.cfg.UserAttribute == "" {
			user = strings.ToLower(a.login)
			return nil
		}
		e, err := c.entry(dn, s.cfg.UserAttribute)
		if err != nil {
			return err
		}
		user, err = s.canonical(e, a.login)
		return err
	})
	return user, err
}

// searchAndBind verifies a password with query_filter.
func (s *Store) searchAndBind(ctx context.Context, a attempt) (string, error) {
	e, err := s.find(ctx, a)
	if err != nil {
		return "", s.delay.apply(ctx, err)
	}
	began := time.Now()
	err = s.servers.do(ctx, forUsers, a.known, func(c *conn) error {
		return c.bindUser(e.DN, a.password, auth.BadPassword)
	})
	s.delay.add(time.Since(began))
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
	case s.cfg.UserAttribute == "" && strings.ContainsFunc(login, notPlain):
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

// maxDelay bounds the delay for unknown users if a server is slow.
const maxDelay = time.Second

// A bindDelay is the average duration of recent binds of users. If a search finds no
// entry there is no bind, and the answer is delayed by this time instead, so that the
// response time does not reveal which users exist.
type bindDelay struct{ average atomic.Int64 } // time.Duration

// add adds a bind to the moving average. Of two concurrent calls one may be lost, which is
// harmless.
func (p *bindDelay) add(took time.Duration) {
	average := p.average.Load()
	if average == 0 {
		p.average.Store(int64(took))
		return
	}
	p.average.Store(average + (int64(took)-average)/8)
}

// apply returns err, after the delay if it is NoSuchUser.
func (p *bindDelay) apply(ctx context.Context, err error) error {
	f, ok := errors.AsType[*auth.Failure](err)
	if !ok || f.Kind != auth.NoSuchUser {
		return err
	}
	timer := time.NewTimer(min(time.Duration(p.average.Load()), maxDelay))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return err
}

// Check opens a new connection to every server, binds as the service account, and reads
// the entry of search_base. The error has a line for each server that fails.
func (s *Store) Check(ctx context.Context) error {
	var errs []error
	for i, one := range s.servers.servers {
		ctx, cancel := context.WithTimeout(ctx, share(ctx, len(s.servers.servers)-i))
		errs = append(errs, s.checkServer(ctx, one))
		cancel()
	}
	return errors.Join(errs...)
}

func (s *Store) checkServer(ctx context.Context, one *server) error {
	c, err := one.dialer.dial(ctx, forSearches)
	if err == nil {
		defer c.close()
		err = c.within(ctx, func(c *conn) error {
			if s.cfg.SearchBase.text == "" {
				return nil
			}
			_, err := c.entry(s.cfg.SearchBase.text, noAttributes)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", one.dialer.url, fileperm.ExplainDial(err))
	}
	return nil
}
