package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Local is the Provider made of stores: it runs the mechanisms itself and asks
// each field for what its mechanisms need. A nil field is a mechanism that is
// not offered. Its methods may be called by many sessions at once; its fields
// are not changed once it is in use.
//
// What wraps a store goes into the field, in the order that an attempt meets it:
//
//	auth.Local{
//		Passwords: throttle.Guard(auth.Prepared(chain)),
//		Keys:      chain.Keys(),
//		Scram:     scram, // auth.NewScram(throttle)
//	}
type Local struct {
	Passwords PasswordVerifier // PLAIN and LOGIN
	Keys      KeyStore         // SCRAM-SHA-256 and SCRAM-SHA-256-PLUS
	Scram     *Scram           // goes with Keys

	// Only are the mechanisms that may be offered (Config.Mechanisms); nil is
	// all that the other fields serve.
	Only     []MechanismName
	Security SecurityOptions
}

// A MechanismName is one of the mechanisms that Local runs.
type MechanismName string

// The names as RFC 4616, a draft that expired, and RFC 7677 write them.
const (
	mechPlain     MechanismName = "PLAIN"
	mechLogin     MechanismName = "LOGIN"
	mechScram     MechanismName = "SCRAM-SHA-256"
	mechScramPlus MechanismName = "SCRAM-SHA-256-PLUS"
)

// NeedsKeys reports whether the mechanism asks a KeyStore.
func (m MechanismName) NeedsKeys() bool { return m == mechScram || m == mechScramPlus }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MechanismName) UnmarshalText(text []byte) error {
	switch name := MechanismName(strings.ToUpper(string(text))); name {
	case mechPlain, mechLogin, mechScram, mechScramPlus:
		*m = name
		return nil
	}
	return fmt.Errorf("%q is not a mechanism of ours; these are PLAIN, LOGIN, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS", text)
}

// A mechanism is one row of the table. To add one, write its exchange in a
// separate file, and a row here.
type mechanism struct {
	name       MechanismName
	properties MechanismProperties // as Dovecot states them
	served     func(Local, *Peer) bool
	start      func(Local, *Peer) Exchange
}

// Most wanted first: clients take the first that they know.
var mechanisms = []mechanism{
	{mechScramPlus, scramProperties, Local.binds, startScramPlus},
	{mechScram, scramProperties, Local.keeps, startScram},
	{mechPlain, MechanismPlaintext, Local.verifies, startPlain},
	{mechLogin, MechanismPlaintext, Local.verifies, startLogin},
}

func (l Local) verifies(*Peer) bool { return l.Passwords != nil }

func (l Local) keeps(*Peer) bool { return l.Keys != nil && l.Scram != nil }

func (l Local) binds(p *Peer) bool { return l.keeps(p) && canBind(p) }

// Mechanisms implements Provider.
func (l Local) Mechanisms(p *Peer) []string {
	var names []string
	for _, m := range mechanisms {
		if l.offers(m, p) {
			names = append(names, string(m.name))
		}
	}
	return names
}

// Start implements Provider. It waits for nothing.
func (l Local) Start(_ context.Context, p *Peer, mech string) (Exchange, error) {
	i := slices.IndexFunc(mechanisms, func(m mechanism) bool { return string(m.name) == mech })
	if i < 0 || !l.offers(mechanisms[i], p) {
		return nil, ErrMechanism
	}
	return mechanisms[i].start(l, p), nil
}

// RFC 4954, section 4: there must be a configuration in which no password crosses
// the network readable. Here there is no other.
func (l Local) offers(m mechanism, p *Peer) bool {
	return p.TLS != nil && l.permits(m.name, m.properties) && m.served(l, p)
}

func (l Local) permits(name MechanismName, properties MechanismProperties) bool {
	return (l.Only == nil || slices.Contains(l.Only, name)) && l.Security.Allow(properties)
}

// Check reports what the configuration asks for and the stores cannot serve, and
// what to do about it.
func (l Local) Check() error {
	for _, name := range []MechanismName{mechScram, mechScramPlus} {
		if l.Keys == nil && slices.Contains(l.Only, name) {
			return fmt.Errorf("auth.mechanisms names %s, but the first of auth.stores keeps no keys for it: "+
				"put a store that does (userfile, sql) first, or take the mechanism out", name)
		}
	}
	if !slices.ContainsFunc(mechanisms, func(m mechanism) bool { return l.permits(m.name, m.properties) }) {
		return fmt.Errorf("auth.security_options %q leave no mechanism of auth.mechanisms %q: nobody could log in", l.Security, l.Only)
	}
	return nil
}
