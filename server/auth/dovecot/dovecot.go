// Package dovecot authenticates against the auth service of Dovecot, with what
// Postfix calls smtpd_sasl_type = dovecot: the client's side of Dovecot's
// authentication protocol, versions 1.x, over a Unix or a TCP socket.
//
// There are two ways to use it. Alone it is an [auth.Provider], see [Proxy]: the
// whole SASL exchange is handed through, and so every mechanism works that is
// configured in Dovecot. Among other stores it is an [auth.PasswordVerifier],
// see [Store.VerifyPassword], which asks by way of PLAIN.
//
// One connection carries all exchanges, distinguished by their numbers. It is
// replaced every minute, since Dovecot serves an old connection with its old
// configuration for as long as it lives. When Dovecot does not answer, the next
// exchange tries a new connection; when that fails, exchanges fail at once until
// it is time for the next try.
//
// Dovecot is trusted to identify users and for nothing else: what it sends is
// bounded in length, number and time, and whatever does not fit the protocol
// ends the connection. Nobody is authenticated but by an OK that answers the
// very message that was sent, and that names the user.
//
// Where this differs from Postfix:
//
//   - An OK with "nologin" is a refusal, as Dovecot means it: the password was
//     right, the account is closed.
//   - An OK with "proxy" is no answer. Dovecot's proxies hand the login on to
//     another server that decides, often without any check of their own
//     ("nopassword"), and this cannot be seen from here.
//   - "no-penalty" is sent: an address that guesses is slowed down by
//     [throttle.Throttle], which spares the users known there, and would otherwise
//     be slowed down twice. Dovecot gets the address for its log and its
//     policy. Its delay of a refusal, 2 seconds, stays.
//   - Mechanisms that cannot work from here are not offered: EXTERNAL, since no
//     certificate is vouched for, and -PLUS, since Dovecot sees nothing of the
//     client's TLS connection to bind to.
//   - "user_disabled" and "pass_expired" become auth.Disabled and auth.Expired.
//     Some of Dovecot's databases report it before they have checked the password;
//     its own IMAP service passes that on to clients just the same.
//
// Left out: the master protocol (userdb lookups), and the verification of client
// certificates.
package dovecot

import (
	"context"
	"errors"
	"strings"

	"postern/server/auth"
)

// Kind is what the configuration calls this store, and its name in the log.
const Kind = "dovecot"

// A Store asks Dovecot. It may be used by many goroutines at once, and must be
// closed.
type Store struct {
	link *link
}

// New returns a store. It connects in the background: that Dovecot is not there
// yet is no error.
func New(cfg Config, events auth.Events) *Store {
	s := &Store{link: newLink(cfg.Path, events)}
	s.link.refresh()
	return s
}

// Close ends the connection, and with it what is under way. It returns when
// nothing of the store is running any more.
func (s *Store) Close() error {
	s.link.close()
	return nil
}

// Reload makes the next exchange use a new connection, and so Dovecot's current
// configuration. What is under way goes on.
func (s *Store) Reload(context.Context) error {
	s.link.renew()
	return nil
}

var (
	errNoPlain   = errors.New("dovecot does not offer PLAIN; add it to auth_mechanisms in its configuration")
	errChallenge = errors.New("dovecot asked for more after a complete PLAIN message")
)

// VerifyPassword implements auth.PasswordVerifier. It waits for as long as ctx
// allows. Login and password must fit in a line of Dovecot's protocol, together
// about 12,000 octets (6,000 before version 1.2 of the protocol); otherwise they are refused without a question to Dovecot,
// whichever user they are for.
func (s *Store) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (auth.Identity, error) {
	// RFC 4616, section 2: NUL is what ends a field.
	if strings.ContainsRune(login+password, 0) {
		return auth.Identity{}, &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: "NUL in the name or the password"}
	}
	r, err := s.link.open(ctx, "PLAIN")
	switch {
	case errors.Is(err, auth.ErrMechanism):
		return auth.Identity{}, unavailable(errNoPlain)
	case err != nil:
		return auth.Identity{}, unavailable(err)
	}
	defer r.cancel()
	a, err := r.ask(ctx, authLine(r.id, "PLAIN", p, []byte("\x00"+login+"\x00"+password)))
	switch {
	case errors.Is(err, errTooLong):
		return auth.Identity{}, err
	case err != nil:
		return auth.Identity{}, unavailable(err)
	case a.verb == verbCont:
		return auth.Identity{}, unavailable(errChallenge)
	}
	return a.verdict()
}

func unavailable(err error) error { return &auth.Unavailable{Store: Kind, Err: err} }
