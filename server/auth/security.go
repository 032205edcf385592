package auth

import (
	"fmt"
	"slices"
	"strings"
)

// MechanismProperties is what a mechanism does for the security of an exchange,
// or against it.
type MechanismProperties uint8

const (
	MechanismAnonymous      MechanismProperties = 1 << iota // asks nobody who he is
	MechanismPlaintext                                      // sends the password as it is
	MechanismDictionary                                     // who listens can try passwords from a dictionary
	MechanismActive                                         // who sits in between can take part
	MechanismForwardSecrecy                                 // what was recorded stays secret when the password is known
	MechanismMutualAuth                                     // the server proves that it knows the client
)

// A SecurityOption rules mechanisms out, with the name and the meaning that
// smtpd_sasl_security_options of Postfix gives it.
type SecurityOption string

// The security options. Each "no" option forbids a property, the other two
// demand one.
const (
	NoAnonymous    SecurityOption = "noanonymous"
	NoPlaintext    SecurityOption = "noplaintext"
	NoActive       SecurityOption = "noactive"
	NoDictionary   SecurityOption = "nodictionary"
	ForwardSecrecy SecurityOption = "forward_secrecy"
	MutualAuth     SecurityOption = "mutual_auth"
)

// allows reports whether the option leaves a mechanism with these properties.
// An option that does not exist allows nothing.
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
	option := SecurityOption(strings.ToLower(string(text))) // Postfix takes them in any case
	if !slices.Contains(known, option) {
		return fmt.Errorf("%q is not a security option; the options are %q", text, known)
	}
	*o = option
	return nil
}

// SecurityOptions is auth.security_options: which mechanisms are not offered
// although the stores could serve them. Without any option all are.
type SecurityOptions []SecurityOption

// DefaultSecurityOptions is Postfix's default.
func DefaultSecurityOptions() SecurityOptions { return SecurityOptions{NoAnonymous} }

// Allow reports whether a mechanism with these properties may be offered.
func (o SecurityOptions) Allow(p MechanismProperties) bool {
	return !slices.ContainsFunc(o, func(one SecurityOption) bool { return !one.allows(p) })
}
