package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"postern/server/auth/throttle"
)

// Local is the Provider that runs the mechanisms itself and gets from stores what each
// mechanism needs. A nil field is an ability that no store has; the mechanisms that need
// it are not offered. The methods may be called by many sessions at once; the fields
// are not changed once the Local is in use.
type Local struct {
	Passwords PasswordVerifier // PLAIN and LOGIN
	Keys      KeyStore         // SCRAM-SHA-256 and SCRAM-SHA-256-PLUS
	Scram     *Scram           // set together with Keys

	// Only lists the mechanisms that may be offered (Config.Mechanisms); nil allows all.
	Only     []MechanismName
	Security SecurityOptions
}

// NewLocal returns a Local that uses the abilities of stores. t is that of the process, or
// t.For if the users are others than those of another Local, and scram that of the process.
func NewLocal(stores Chain, t *throttle.Throttle, scram *Scram, cfg Config) Local {
	t = t.Accounts(stores.account)
	if scram != nil {
		scram = &Scram{t, scram.secret}
	}
	return Local{
		// Nested in the order in which an attempt passes them.
		Passwords: Throttled(t, WithPRECIS(stores.Passwords())),
		Keys:      stores.Keys(),
		Scram:     scram,
		Only:      cfg.Mechanisms,
		Security:  cfg.SecurityOptions,
	}
}

// A MechanismName is the name of a mechanism that Local runs, in upper case.
type MechanismName string

// The spellings of RFC 4616, of an expired draft (draft-murchison-sasl-login), and of
// RFC 7677.
const (
	mechPlain     MechanismName = "PLAIN"
	mechLogin     MechanismName = "LOGIN"
	mechScram     MechanismName = "SCRAM-SHA-256"
	mechScramPlus MechanismName = "SCRAM-SHA-256-PLUS"
)

// A mechanism is one row of the table of mechanisms, which is the only list of them. To
// add a mechanism, write its exchange in a new file and a row here. If it needs an ability
// that no other mechanism needs, the new file defines it, too, with its methods of Store and
// Chain; NewStore finds it, and it gets a field of Local.
type mechanism struct {
	name       MechanismName
	properties MechanismProperties // as Dovecot lists them
	byDefault  bool                // one of the defaults of Config.Mechanisms
	needs      *ability
	usable     func(*Peer) bool // on this connection; nil: on every one with TLS
	start      func(Local, *Peer, MechanismName) Exchange
}

// The most desirable mechanism comes first: clients take the first that they know.
var mechanisms = []mechanism{
	{mechScramPlus, scramProperties, false, &keepsKeys, canBind, startScram},
	{mechScram, scramProperties, false, &keepsKeys, nil, startScram},
	{mechPlain, MechanismPlaintext, true, &verifiesPasswords, nil, startPlain},
	{mechLogin, MechanismPlaintext, true, &verifiesPasswords, nil, startLogin},
}

// An ability is what a mechanism needs of the stores.
type ability struct {
	available func(Local) bool
	missing   string // why it is not available, and the next step
}

var (
	verifiesPasswords = ability{
		func(l Local) bool { return l.Passwords != nil },
		"no store of auth.stores verifies passwords: add a store that does, or remove the mechanism",
	}
	keepsKeys = ability{
		func(l Local) bool { return l.Keys != nil && l.Scram != nil },
		"the first of auth.stores keeps no keys for it: put a store that does (userfile, sql) first, or remove the mechanism",
	}
)

// defaultMechanisms returns the defaults of Config.Mechanisms.
func defaultMechanisms() (names []MechanismName) {
	for _, m := range mechanisms {
		if m.byDefault {
			names = append(names, m.name)
		}
	}
	return names
}

// row returns the row of the mechanism, or false if there is none.
func (m MechanismName) row() (mechanism, bool) {
	i := slices.IndexFunc(mechanisms, func(row mechanism) bool { return row.name == m })
	if i < 0 {
		return mechanism{}, false
	}
	return mechanisms[i], true
}

// NeedsKeys reports whether the mechanism gets keys from a [KeyStore].
func (m MechanismName) NeedsKeys() bool {
	row, _ := m.row()
	return row.needs == &keepsKeys
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MechanismName) UnmarshalText(text []byte) error {
	name := MechanismName(strings.ToUpper(string(text)))
	if _, ok := name.row(); !ok {
		var names []string
		for _, row := range mechanisms {
			names = append(names, string(row.name))
		}
		return fmt.Errorf("unknown mechanism %q; the known ones are %s", text, strings.Join(names, ", "))
	}
	*m = name
	return nil
}

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

// Start implements Provider. It does not wait.
func (l Local) Start(_ context.Context, p *Peer, mech string) (Exchange, error) {
	m, ok := MechanismName(mech).row()
	if !ok || !l.offers(m, p) {
		return nil, ErrMechanism
	}
	return m.start(l, p, m.name), nil
}

// offers reports whether a client is offered the mechanism. RFC 4954, section 4: there
// must be a configuration in which no password crosses the network readable. Here there
// is no other.
func (l Local) offers(m mechanism, p *Peer) bool {
	return p.TLS != nil && l.permits(m.name, m.properties) && m.needs.available(l) && (m.usable == nil || m.usable(p))
}

// permits reports whether the configuration allows the mechanism.
func (l Local) permits(name MechanismName, properties MechanismProperties) bool {
	return (l.Only == nil || slices.Contains(l.Only, name)) && l.Security.Allow(properties)
}

// Check returns an error if the configuration names a mechanism that the stores cannot
// serve, or if its security options rule out every mechanism that it names.
func (l Local) Check() error {
	permitted := false
	for _, m := range mechanisms {
		if slices.Contains(l.Only, m.name) && !m.needs.available(l) {
			return fmt.Errorf("auth.mechanisms names %s, but %s", m.name, m.needs.missing)
		}
		permitted = permitted || l.permits(m.name, m.properties)
	}
	if !permitted {
		return fmt.Errorf("auth.security_options %q rule out every mechanism of auth.mechanisms %q, so that no user could log in: "+
			"remove an option, or add a mechanism", l.Security, l.Only)
	}
	return nil
}

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
