// Package auth authenticates the clients of the SMTP server.
//
// The session knows only [Provider] and [Exchange]. A provider offers SASL
// mechanisms (RFC 4422) and runs their conversations. There are two kinds of
// providers: [Local], which runs the mechanisms itself and asks stores
// ([PasswordVerifier] and its siblings) for what each mechanism really needs,
// and backends that speak SASL themselves and proxy the whole exchange.
//
// Stores are asked in the order of the configuration: a [Chain], each of whose
// members is a [Store], which bounds what a backend is asked, by how many and for
// how long.
//
// Mechanisms are not stores: a store that can only check passwords never has
// to pretend that it knows SCRAM keys. To add a store, write a package below
// this one that implements PasswordVerifier, and name it in the table of
// cmd/postern/backends.go.
//
// A refusal is a [*Failure]. Every other error is temporary, and the client is
// asked to try again later: a broken backend neither accepts a login nor reports a
// wrong password.
package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"

	"postern/server/auth/hash"
)

// A Provider is all that a session knows of authentication. Its methods are
// called by many sessions at once.
type Provider interface {
	// Mechanisms names what EHLO offers to p, in the order of preference. The
	// list may depend on p.TLS; an empty list means that AUTH is not offered.
	Mechanisms(p *Peer) []string

	// Start begins an exchange with one of the mechanisms that Mechanisms
	// named; mech is in upper case. It returns [ErrMechanism] for any other.
	// ctx bounds Start alone; each step of the exchange has its own.
	Start(ctx context.Context, p *Peer, mech string) (Exchange, error)
}

// An Exchange is one SASL conversation. It is used by one goroutine at a time,
// except for Close, which may come from another one while Next is running.
type Exchange interface {
	// Next takes the client's response and returns the next challenge, or
	// reports that the exchange is done. A nil response is a missing initial
	// response, an empty slice an empty one (RFC 4954, section 4: "=").
	//
	// ctx bounds this step alone: it ends when the reply must be out, when the
	// client hangs up, or when the server shuts down. Next then returns without
	// waiting for a store or a penalty any longer. An error ends the exchange:
	// [ErrMalformed], [ErrMechanism], a [*Failure], or a temporary error.
	Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error)

	// Identity is valid once Next has reported done without an error.
	Identity() Identity

	// Close releases what the exchange holds. It is called exactly once, however
	// the exchange ended: done, cancelled with "*", refused, or with the client
	// gone. It does not end a Next that is still running; the end of its ctx does.
	Close() error
}

// A Peer is the client as the transport shows it. It is not changed once it
// has been handed out.
type Peer struct {
	Remote, Local netip.AddrPort
	Helo          string               // as the client gave it; not to be trusted
	TLS           *tls.ConnectionState // nil on clear text
	Session       string               // the session id of the log

	// Certificate is what the server has shown to this client, nil if that is
	// not known. Its hash is the channel binding tls-server-end-point.
	Certificate *x509.Certificate

	// Known is set if the login under examination has succeeded from this
	// address before. Where a store has to queue, such a client goes first.
	Known bool
}

// An Identity is the outcome of a successful exchange.
type Identity struct {
	User      string // canonical name: feeds the sender rules, the limits and the log
	As        string // the user that User acts as; the same unless a store allows more
	Mechanism string
	Store     string // who vouched for it
}

// A PasswordVerifier serves PLAIN and LOGIN. It is called by many sessions at
// once, and ctx bounds the call.
type PasswordVerifier interface {
	// VerifyPassword returns the user: Identity.User is the canonical
	// name, which two users never share, and Identity.Store the name of the
	// store that vouches; the caller fills in the rest. "No" is a *Failure; any
	// other error is temporary. The login is 1 to 512 octets of UTF-8 without
	// control characters, the password 1 to 12,288 octets of any value but NUL: the
	// caller has refused the rest. A store bounds what it accepts further. To a
	// password above its bound the answer is a *Failure, Unknowable if another
	// store might accept it, after the same time for every login.
	VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error)
}

// A KeyStore serves SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: it keeps what RFC 5802
// calls StoredKey and ServerKey. It is called by many sessions at once, and ctx
// bounds the call.
type KeyStore interface {
	// ScramKeys returns the keys of a user. "No" is a *Failure: NoSuchUser, or
	// BadPassword for a user who has no such keys (locked, or a hash of another
	// scheme). Any other error is temporary. The login has no control characters.
	ScramKeys(ctx context.Context, login string) (ScramKeys, error)

	// ScramDecoy describes what the keys of that login would look like, if there is
	// no such user. It answers at once.
	ScramDecoy(login string) ScramDecoy
}

// ScramKeys are the keys of a user, who it is, and the store that keeps them. User
// is the canonical name, as in Identity.
type ScramKeys struct {
	hash.ScramKeys
	User  string
	Store string
}

// A ScramDecoy describes keys that do not exist, so that the answer to an unknown
// user looks like one of the store.
type ScramDecoy struct {
	// Login is the same for all the spellings that the store takes for one login.
	Login string
	// ScramShape is that of most users.
	hash.ScramShape
}
