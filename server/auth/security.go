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

// The options of Postfix.
const (
	NoAnonymous    SecurityOption = "noanonymous"
	NoPlaintext    SecurityOption = "noplaintext"
	NoActive       SecurityOption = "noactive"
	NoDictionary   SecurityOption = "nodictionary"
	ForwardSecrecy SecurityOption = "forward_secrecy"
	MutualAuth     SecurityOption = "mutual_auth"
)

// A securityRule is one row of the table of options.
type securityRule struct {
	option   SecurityOption
	property MechanismProperties
	demanded bool // the property is demanded; otherwise it is forbidden
}

var securityRules = []securityRule{
	{NoAnonymous, MechanismAnonymous, false},
	{NoPlaintext, MechanismPlaintext, false},
	{NoActive, MechanismActive, false},
	{NoDictionary, MechanismDictionary, false},
	{ForwardSecrecy, MechanismForwardSecrecy, true},
	{MutualAuth, MechanismMutualAuth, true},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *SecurityOption) UnmarshalText(text []byte) error {
	option := SecurityOption(strings.ToLower(string(text))) // Postfix accepts any case
	var known []SecurityOption
	for _, rule := range securityRules {
		known = append(known, rule.option)
	}
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

// Allow reports whether a mechanism with these properties may be offered. An unknown option
// allows no mechanism.
func (o SecurityOptions) Allow(p MechanismProperties) bool {
	for _, option := range o {
		i := slices.IndexFunc(securityRules, func(r securityRule) bool { return r.option == option })
		if i < 0 || (p&securityRules[i].property != 0) != securityRules[i].demanded {
			return false
		}
	}
	return true
}
