package config

import (
	"fmt"
	"iter"
	"reflect"
	"slices"

	"github.com/BurntSushi/toml"

	"postern/certs"
	"postern/policy"
	"postern/server"
)

// A Listener is one [[listener]]: its settings, and the sections that apply to its
// clients. Each of these is the shared section with the same name, in which the
// listener's own keys replace the shared values. A list is replaced as a whole.
type Listener struct {
	server.Listener
	TLS    certs.Config  `toml:"tls"`
	Auth   Auth          `toml:"auth"`
	Policy policy.Config `toml:"policy"`
	Relay  Relay         `toml:"relay"`
}

// processWide are the keys of [auth] and [relay] that a listener cannot replace,
// because their state belongs to the process.
func processWide() map[string]bool {
	return map[string]bool{
		"listener.auth.hash_wait":       true,
		"listener.auth.penalty_wait":    true,
		"listener.auth.penalty_exempt":  true,
		"listener.relay.spool":          true,
		"listener.relay.spool_lifetime": true,
		"listener.relay.spool_messages": true,
		"listener.relay.spool_size":     true,

		"listener.relay.spool_messages_per_user": true,
		"listener.relay.spool_size_per_user":     true,
	}
}

// SetListeners replaces the listeners by ones that use the shared sections.
func (c *Config) SetListeners(settings ...server.Listener) {
	c.Listeners = nil
	for _, s := range settings {
		c.Listeners = append(c.Listeners, c.inherit(s))
	}
}

// inherit returns a listener that uses the shared sections.
func (c *Config) inherit(s server.Listener) Listener {
	return Listener{Listener: s, TLS: c.TLS, Auth: c.Auth, Policy: c.Policy, Relay: c.Relay}
}

// listeners decodes [[listener]] over the shared sections, which are decoded already.
func (d *decoder) listeners(c *Config, p toml.Primitive) {
	const path = "listener"
	tables, ok := d.asTables(path, p)
	if !ok {
		return
	}
	c.Listeners = nil
	for i, t := range tables {
		l := c.inherit(server.NewListener())
		d.table(fmt.Sprintf("%s[%d]", path, i), t, fieldsOf(reflect.ValueOf(&l).Elem()))
		c.Listeners = append(c.Listeners, l)
	}
}

// validateListeners checks the listeners with all that they inherit. seen reports
// whether the shared section has the same mistake, which is not reported twice.
func (c *Config) validateListeners(bad func(path, why string), seen func(path, why string) bool) {
	if len(c.Listeners) == 0 {
		bad("listener", "is empty, so no client could connect; leave it out for the ports 587 and 465")
	}
	names := make(map[string]bool)
	for i := range c.Listeners {
		l, at := &c.Listeners[i], fmt.Sprintf("listener[%d]", i)
		l.Listener.Validate(func(key, why string) { bad(join(at, key), why) })
		if names[l.Name] {
			bad(at+".name", fmt.Sprintf("%q is the name of an earlier listener; use a different name for each", l.Name))
		}
		names[l.Name] = true
		in := func(section string) func(key, why string) {
			return func(key, why string) {
				if path := join(section, key); !seen(path, why) {
					bad(join(at, path), why)
				}
			}
		}
		l.TLS.Validate(in("tls"))
		l.Auth.Validate(in("auth"))
		l.Policy.Validate(in("policy"))
		l.Relay.Validate(in("relay"))
	}
}

// TLSSections returns each section [tls] that a listener uses with its path: "tls" for
// the shared one, "listener[1].tls" for one with a listener's own keys. Listeners with
// the same keys have one section.
func (c *Config) TLSSections() iter.Seq2[string, certs.Config] {
	return sections(c, "tls", c.TLS, false, func(l *Listener) certs.Config { return l.TLS })
}

// ListenerOf returns the name of the listener to which the path of a section belongs, or
// "" for a shared section.
func (c *Config) ListenerOf(path string) string {
	var i int
	if _, err := fmt.Sscanf(path, "listener[%d]", &i); err != nil {
		return ""
	}
	return c.Listeners[i].Name
}

// AuthSections returns each section [auth] that a listener uses; see TLSSections.
func (c *Config) AuthSections() iter.Seq2[string, Auth] {
	return sections(c, "auth", c.Auth, false, func(l *Listener) Auth { return l.Auth })
}

// PolicySections returns each section [policy] that a listener uses; see TLSSections.
func (c *Config) PolicySections() iter.Seq2[string, policy.Config] {
	return sections(c, "policy", c.Policy, false, func(l *Listener) policy.Config { return l.Policy })
}

// RelaySections returns each section [relay] that a listener uses, and the shared one if
// there is a spool, which falls back on it; see TLSSections.
func (c *Config) RelaySections() iter.Seq2[string, Relay] {
	return sections(c, "relay", c.Relay, c.Relay.Dir != "", func(l *Listener) Relay { return l.Relay })
}

// sections returns the different values of a section with their paths; first the shared
// one, if it is used in any case.
func sections[T any](c *Config, name string, shared T, used bool, of func(*Listener) T) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		var before []T
		if used {
			before = append(before, shared)
			if !yield(name, shared) {
				return
			}
		}
		for i := range c.Listeners {
			own := of(&c.Listeners[i])
			if slices.ContainsFunc(before, func(t T) bool { return reflect.DeepEqual(t, own) }) {
				continue
			}
			before = append(before, own)
			path := fmt.Sprintf("listener[%d].%s", i, name)
			if reflect.DeepEqual(own, shared) {
				path = name
			}
			if !yield(path, own) {
				return
			}
		}
	}
}
