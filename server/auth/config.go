package auth

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode"

	"postern/internal/netprefix"
	"postern/server/auth/throttle"
)

// Config is the section [auth] of the configuration, without the stores, [[auth.stores]].
type Config struct {
	// FailuresPerConnection is the number of failed logins after which a connection is
	// closed with 421.
	FailuresPerConnection int `toml:"failures_per_connection"`

	// HashWait bounds how long a login waits to have its password hashed, while as many
	// hashes are being computed as there are processors. After that it gets 454 4.7.0.
	HashWait time.Duration `toml:"hash_wait"`

	// PenaltyWait bounds how long a login waits if logins from its address have failed:
	// one is verified at a time, 2, 4, 8, then 15 seconds apart. A login that would wait
	// longer gets 454 4.7.0 at once.
	PenaltyWait time.Duration `toml:"penalty_wait"`

	// PenaltyExempt lists networks whose failed logins cause no delay: webmail, an office
	// with one public address.
	PenaltyExempt []Network `toml:"penalty_exempt"`

	// Realm is the domain of logins that have none (smtpd_sasl_local_domain of
	// Postfix). If it is empty, they get none; see LoginTemplate.
	Realm string `toml:"realm"`

	// Mechanisms are those that may be offered, if the stores can serve them.
	// SCRAM-SHA-256 and SCRAM-SHA-256-PLUS are not among the defaults: with a client
	// that prefers them, and some then try no other mechanism, every user whose password
	// is stored in another form would be locked out. The administrator adds them when
	// all users have keys. The option has no effect on a store that has mechanisms
	// itself (Dovecot as the only store).
	Mechanisms []MechanismName `toml:"mechanisms"`

	// SecurityOptions rules out mechanisms by their properties, those of Dovecot
	// included (smtpd_sasl_security_options of Postfix).
	SecurityOptions SecurityOptions `toml:"security_options"`
}

// Throttle returns the part of the configuration that is for the throttle.
func (c *Config) Throttle() throttle.Config {
	t := throttle.Config{MaxWait: c.PenaltyWait}
	for _, n := range c.PenaltyExempt {
		t.Exempt = append(t.Exempt, netip.Prefix(n))
	}
	return t
}

// Defaults returns the values of keys that the file leaves out.
func Defaults() Config {
	return Config{
		FailuresPerConnection: 3,
		HashWait:              10 * time.Second,
		PenaltyWait:           30 * time.Second,
		Mechanisms:            defaultMechanisms(),
		SecurityOptions:       DefaultSecurityOptions(),
	}
}

// The longest waits that the configuration may allow. A wait for a penalty and two for a
// store, one for other logins and one for the answer, fit into the 110 seconds that the
// server has for a reply (RFC 6409, section 5.3: a client waits for two minutes). The
// deadline of the context is that limit itself: a login that reaches it gets a temporary
// error, whatever it waits for.
const (
	maxPenaltyWait  = time.Minute
	maxStoreTimeout = 25 * time.Second
)

// Validate calls bad for each value that is not valid, with its key relative to the section.
func (c *Config) Validate(bad func(key, why string)) {
	if c.FailuresPerConnection < 1 || c.FailuresPerConnection > 20 {
		bad("failures_per_connection", "must be between 1 and 20; without a limit, one connection could guess for ever")
	}
	if c.HashWait < time.Second || c.HashWait > 30*time.Second {
		bad("hash_wait", `must be between "1s" and "30s", so that the client is still connected after the wait`)
	}
	if c.PenaltyWait < 15*time.Second || c.PenaltyWait > maxPenaltyWait {
		bad("penalty_wait", `must be between "15s" (the longest delay) and "1m", so that the client is still connected after the wait`)
	}
	if strings.ContainsFunc(c.Realm, notInRealm) || len(c.Realm) > 255 {
		bad("realm", `must be a domain such as "example.org", without "@"`)
	}
	if len(c.Mechanisms) == 0 {
		bad("mechanisms", fmt.Sprintf("must name at least one, such as %q; without a mechanism no user can log in", defaultMechanisms()))
	}
}

func notInRealm(r rune) bool { return r == '@' || !unicode.IsGraphic(r) || unicode.IsSpace(r) }

// StoreConfig is what every table [[auth.stores]] takes, whatever its kind.
type StoreConfig struct {
	// Name is the name of the store in the log. The default is the kind; several
	// stores of one kind need different names.
	Name string `toml:"name"`

	// Login makes the login for this store from the login of the client.
	Login LoginTemplate `toml:"login"`

	// Fold is whether spellings of a login that differ in case are one login
	// (auth_username_format = %Lu of Dovecot).
	Fold Fold `toml:"fold"`

	// Timeout is how long the store has to answer; where it hashes the password
	// itself, Config.HashWait included. Before that, a login waits at most as long for
	// other logins at the store.
	Timeout time.Duration `toml:"timeout"`

	// Concurrency is how many logins the store verifies at once.
	Concurrency int `toml:"concurrency"`

	// OnFailure decides whether the next stores are asked when this one has refused
	// a login; see Chain.
	OnFailure OnFailure `toml:"on_failure"`
}

// StoreDefaults returns the values of keys that the table leaves out.
func StoreDefaults() StoreConfig {
	return StoreConfig{Login: wholeLogin, Timeout: 10 * time.Second, Concurrency: 20}
}

var storeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

// Validate calls bad for each value that is not valid, with its key relative to the
// table.
func (c *StoreConfig) Validate(bad func(key, why string)) {
	if c.Name != "" && !storeName.MatchString(c.Name) {
		bad("name", "must be up to 32 letters, digits, dots, dashes and underscores; the log shows it")
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > maxStoreTimeout {
		bad("timeout", fmt.Sprintf(`must be between "100ms" and "%v": a client gets its reply within 110 seconds, `+
			"in which a login may wait for a penalty, then for other logins, then for the store", maxStoreTimeout))
	}
	if c.Concurrency < 1 || c.Concurrency > 1000 {
		bad("concurrency", "must be between 1 and 1000")
	}
}

// OnFailure decides whether a store that has refused a login ends the search.
type OnFailure string

// The values of on_failure; see Chain.
const (
	OnFailureByKind OnFailure = ""
	OnFailureNext   OnFailure = "next"
	OnFailureStop   OnFailure = "stop"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *OnFailure) UnmarshalText(text []byte) error {
	switch v := OnFailure(text); v {
	case OnFailureNext, OnFailureStop:
		*o = v
		return nil
	}
	return fmt.Errorf(`unknown value %q; write "next" (always ask the next store) or "stop" (never ask it), or leave the key out`, text)
}

// A Network is an address ("192.0.2.1") or a network ("192.0.2.0/24", "2001:db8::/32") in
// the configuration.
type Network netip.Prefix

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Network) UnmarshalText(text []byte) error {
	p, err := netprefix.Parse(string(text))
	if err != nil {
		return err
	}
	*n = Network(p)
	return nil
}
