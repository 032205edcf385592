package auth

import (
	"context"
	"slices"
)

// Local is the Provider made of stores: it runs the mechanisms itself and asks
// each field for what its mechanisms need. A nil field is a mechanism that is
// not offered. Its methods may be called by many sessions at once; its fields
// are not changed once it is in use.
//
// What wraps a store goes into the field, in the order that an attempt meets it:
//
//	auth.Local{Passwords: throttle.Guard(auth.Prepared(store))}
type Local struct {
	Passwords PasswordVerifier // PLAIN and LOGIN
}

// A mechanism is one row of the table: its name, and the exchange that it
// begins. To add one, write its exchange in a file of its own, and a row here.
type mechanism struct {
	name  string
	start func(*passwordExchange) Exchange
}

// Most wanted first: clients take the first that they know.
var passwordMechanisms = []mechanism{
	{"PLAIN", startPlain},
	{"LOGIN", startLogin},
}

// Mechanisms implements Provider.
func (l Local) Mechanisms(p *Peer) []string {
	var names []string
	for _, m := range l.offered(p) {
		names = append(names, m.name)
	}
	return names
}

// Start implements Provider.
func (l Local) Start(ctx context.Context, p *Peer, mech string) (Exchange, error) {
	offered := l.offered(p)
	i := slices.IndexFunc(offered, func(m mechanism) bool { return m.name == mech })
	if i < 0 {
		return nil, ErrMechanism
	}
	return offered[i].start(newPasswordExchange(ctx, l.Passwords, p, mech)), nil
}

// RFC 4954, section 4: there must be a configuration in which no password crosses
// the network readable. Here there is no other.
func (l Local) offered(p *Peer) []mechanism {
	if l.Passwords == nil || p.TLS == nil {
		return nil
	}
	return passwordMechanisms
}
