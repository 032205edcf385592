package auth

import (
	"fmt"
	"slices"
	"strings"
)

// MechanismProperties are the properties of a mechanism by which security options allow it
// or rule it out.
type MechanismProperties uint8

const (
	MechanismAnonymous      MechanismProperties = 1 << iota // does not authenticate the client
	MechanismPlaintext                                      // sends the password in clear text
	MechanismDictionary                                     // a recorded exchange allows a dictionary attack
	MechanismActive                                         // an active attacker in the middle can use the exchange
	MechanismForwardSecrecy                                 // a recorded exchange stays secret if the password becomes known
	MechanismMutualAuth                                     // the server authenticates itself, too
)

// A SecurityOption rules out mechanisms. Names and meanings are those of Postfix's
// smtpd_sasl_security_options.
type SecurityOption string

// Each option that begins with "no" forbids a property, the other two demand one.
const (
	NoAnonymous    SecurityOption = "noanonymous"
	NoPlaintext    SecurityOption = "noplaintext"
	NoActive       SecurityOption = "noactive"
	NoDictionary   SecurityOption = "nodictionary"
	ForwardSecrecy SecurityOption = "forward_secrecy"
	MutualAuth     SecurityOption = "mutual_auth"
)

// allows reports whether the option allows a mechanism with these properties. An unknown
// option allows none.
func (o SecurityOption) allows(p MechanismProperties) bool {
	switch o {
	case NoAnonymous:
		return p&MechanismAnonymous == 0
	case NoPlaintext:
		return p&MechanismPlaintext == 0
	case NoActive:
		return p&MechanismActive == 0
	case NoDictionary:
		return p&MechanismDictionary == 0
	case ForwardSecrecy:
		return p&MechanismForwardSecrecy != 0
	case MutualAuth:
		return p&MechanismMutualAuth != 0
	}
	return false
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *SecurityOption) UnmarshalText(text []byte) error {
	known := []SecurityOption{NoAnonymous, NoPlaintext, NoActive, NoDictionary, ForwardSecrecy, MutualAuth}
	option := SecurityOption(strings.ToLower(string(text))) // Postfix accepts any case
	if !slices.Contains(known, option) {
		return fmt.Errorf("unknown security option %q; the options are %q", text, known)
	}
	*o = option
	return nil
}

// SecurityOptions is auth.security_options: mechanisms that one of them rules out are not
// offered, even if the stores could serve them.
type SecurityOptions []SecurityOption

// DefaultSecurityOptions returns the default, which is that of Postfix.
func DefaultSecurityOptions() SecurityOptions { return SecurityOptions{NoAnonymous} }

// Allow reports whether a mechanism with these properties may be offered.
func (o SecurityOptions) Allow(p MechanismProperties) bool {
	return !slices.ContainsFunc(o, func(one SecurityOption) bool { return !one.allows(p) })
}
