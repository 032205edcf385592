// Package auth authenticates the clients of the SMTP server.
//
// A session knows only [Provider] and [Exchange]. A provider offers SASL mechanisms (RFC
// 4422) and runs their exchanges. There are two kinds of providers: [Local], which runs
// the mechanisms itself and gets from stores what each of them needs, and backends that
// speak SASL themselves, such as Dovecot, to which the whole exchange is passed.
//
// Mechanisms are not stores. A mechanism needs an ability ([PasswordVerifier], [KeyStore]),
// and a backend offers the abilities that it has: one that only verifies passwords does not
// have to pretend that it has SCRAM keys.
//
// The files, in the order in which a login passes them:
//
//	local      the table of mechanisms, and the security options
//	password   PLAIN and LOGIN, and what wraps the stores for them: the throttle, the
//	           preparation of passwords
//	scram      SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, and their channel bindings
//	question   one verification: the throttle, and what happens if the client hangs up
//	chain      which stores are asked, in which order, with which login
//	store      one backend with its settings, and the cache of its answers
//	calls      bounds on the calls of a store, and whether it answers
//	backend    what a backend is, and what backends share
//
// To add a mechanism, write its exchange in a new file and a row in the table of local.go.
// To add a kind of store, write a package below this one with a [BackendConfig], and a row
// in the table of kinds in cmd/postern/internal/config.
//
// A refusal is a [*Failure]. Every other error is temporary, and the client is asked to try
// again later: a broken backend neither accepts a login nor reports a wrong password.
//
// The context of [Exchange.Next] is the only bound of a login as a whole. Each wait within
// (for a penalty, for other logins at a store, for its answer, for a processor) has a bound
// of the configuration, which the deadline of the context cuts.
package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"

	"postern/internal/netprefix"
	"postern/internal/semaphore"
	"postern/server/auth/hash"
	"postern/server/auth/throttle"
)

// A Provider offers mechanisms to sessions. Its methods are called by many sessions at
// once.
type Provider interface {
	// Mechanisms returns the names that EHLO offers to p, in the order of preference.
	// The list may depend on p.TLS; if it is empty, AUTH is not offered.
	Mechanisms(p *Peer) []string

	// Start begins an exchange with one of the names that Mechanisms returns; mech is in
	// upper case. For any other it returns [ErrMechanism]. ctx bounds only Start; each
	// step of the exchange has a separate context.
	Start(ctx context.Context, p *Peer, mech string) (Exchange, error)
}

// An Exchange is one SASL exchange. It is used by one goroutine at a time, except for Close,
// which another goroutine may call while Next is running.
type Exchange interface {
	// Next takes the client's response and returns the next challenge, or reports that
	// the exchange is done. A nil response is a missing initial response, an empty slice
	// is an empty one (RFC 4954, section 4: "=").
	//
	// ctx bounds this step: it ends when the reply is due, when the client hangs up, or
	// when the server shuts down. Next then returns without waiting any longer. An error
	// ends the exchange: [ErrMalformed], [ErrMechanism], a [*Failure], [ErrPending], or a
	// temporary error.
	Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error)

	// Identity is valid after Next has reported done without an error.
	Identity() Identity

	// Close releases the resources of the exchange. It is called exactly once, however
	// the exchange ended: done, cancelled with "*", refused, or abandoned by the client.
	// It does not end a running Next; the end of its ctx does. After [ErrPending] the
	// resources are released when there is a verdict.
	Close() error
}

// A Peer is the client of a connection. It is not changed after it has been passed on.
type Peer struct {
	Remote, Local netip.AddrPort
	Helo          string               // as the client gave it; not to be trusted
	TLS           *tls.ConnectionState // nil without TLS
	Session       string               // the session id of the log

	// Certificate is the server's certificate on this connection, nil if it is not
	// known. Its hash is the channel binding tls-server-end-point.
	Certificate *x509.Certificate

	// Known is set if this login has succeeded from this address before. Where logins
	// wait for each other, such a client waits in the first line.
	Known bool

	// Background is for questions that outlive the session. It is nil if the client
	// cannot hang up.
	Background *Background
}

// Turn returns the place of the client's login in the queues of stores, and of what they
// use. login is as the client sent it: all spellings that may be one login count as one.
func (p *Peer) Turn(login string) semaphore.Turn {
	addr := p.Remote.Addr()
	t := semaphore.Turn{
		Known:   p.Known,
		Network: netprefix.Network(addr),
		Holders: []string{"address " + netprefix.Client(addr).String()},
	}
	if login != "" { // it is not known with every mechanism of Dovecot
		t.Holders = append(t.Holders, "login "+throttle.Fold(login))
	}
	return t
}

// An Identity is the result of a successful exchange.
type Identity struct {
	User      string // the canonical name: for the sender rules, the limits and the log
	As        string // the user that User acts as; the same unless a store allows more
	Mechanism string
	Store     string // the store that accepted the login
}

// A PasswordVerifier is the ability that PLAIN and LOGIN need. It is called by many sessions
// at once, and ctx bounds the call.
type PasswordVerifier interface {
	// VerifyPassword returns the user: Identity.User is the canonical name, which two
	// users never share, and Identity.Store the name of the store that accepted the
	// login; the caller fills in the rest. A refusal is a *Failure; any other error is
	// temporary.
	//
	// The login is 1 to 512 octets of UTF-8 without control characters, the password 1
	// to 12,288 octets of any value but NUL: the caller has refused everything else. A
	// store may bound the password further. It refuses one above its bound with a
	// *Failure, Unknowable if another store might accept it, after the same time for
	// every login.
	VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error)
}

// A KeyStore is the ability that SCRAM-SHA-256 and SCRAM-SHA-256-PLUS need: it keeps
// StoredKey and ServerKey of RFC 5802. It is called by many sessions at once, and ctx bounds
// the call.
type KeyStore interface {
	// ScramKeys returns the keys of a user. A refusal is a *Failure: NoSuchUser, or
	// BadPassword for a user without such keys (locked, or with a hash of another
	// scheme). Any other error is temporary. The login has no control characters.
	//
	// A user's keys are given to logins with one ScramDecoy.Login only, and to all of
	// these. Otherwise the salts of two spellings would be alike, or differ, only if there
	// is such a user.
	ScramKeys(ctx context.Context, p *Peer, login string) (ScramKeys, error)

	// ScramDecoy describes the keys that the login would have if there were such a user.
	// It does not wait.
	ScramDecoy(login string) ScramDecoy
}

// ScramKeys are the keys of a user, with the canonical name, as in Identity, and the store
// that keeps them.
type ScramKeys struct {
	hash.ScramKeys
	User  string
	Store string
}

// A ScramDecoy describes keys that do not exist, so that the answer for an unknown user
// looks like one of the store.
type ScramDecoy struct {
	// Login is the same for all spellings that the store accepts for one login.
	Login string
	// ScramShape is that of most users.
	hash.ScramShape
}
