package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Config is the section [policy], and the table policy of a listener. There,
// what is absent (nil) is taken from the section; see Over.
type Config struct {
	// The lists, each named after Postfix's smtpd_..._restrictions. They are
	// all asked at RCPT, but for the last two.
	Client    Words `toml:"client"`
	Helo      Words `toml:"helo"`
	Sender    Words `toml:"sender"`
	Relay     Words `toml:"relay"`
	Recipient Words `toml:"recipient"`
	Data      Words `toml:"data"`
	EndOfData Words `toml:"end_of_data"`

	// MyNetworks are the clients that permit_mynetworks lets in.
	MyNetworks Networks `toml:"mynetworks"`
	// RelayDomains and LocalDomains are the destinations that
	// reject_unauth_destination and its kin call ours. For the latter, which
	// is Postfix's mydestination, this site is the final destination.
	// Unlike in Postfix, a domain stands for itself alone, and
	// ".example.org" for everything below it.
	RelayDomains Domains `toml:"relay_domains"`
	LocalDomains Domains `toml:"local_domains"`
}

// Defaults lets in who has proved who he is, and nobody else.
func Defaults() Config {
	return Config{
		Client:    Words{},
		Helo:      Words{},
		Sender:    Words{},
		Relay:     Words{},
		Recipient: Words{{Name: "permit_sasl_authenticated"}, {Name: "reject"}},
		Data:      Words{},
		EndOfData: Words{},
		MyNetworks: Networks{
			netip.MustParsePrefix("127.0.0.0/8"),
			netip.MustParsePrefix("::1/128"),
		},
		RelayDomains: Domains{},
		LocalDomains: Domains{},
	}
}

// Over lays c over base: what is absent in c is taken from base, what is there
// replaces it, even if it is empty.
func (c Config) Over(base Config) Config {
	return Config{
		Client:       over(c.Client, base.Client),
		Helo:         over(c.Helo, base.Helo),
		Sender:       over(c.Sender, base.Sender),
		Relay:        over(c.Relay, base.Relay),
		Recipient:    over(c.Recipient, base.Recipient),
		Data:         over(c.Data, base.Data),
		EndOfData:    over(c.EndOfData, base.EndOfData),
		MyNetworks:   over(c.MyNetworks, base.MyNetworks),
		RelayDomains: over(c.RelayDomains, base.RelayDomains),
		LocalDomains: over(c.LocalDomains, base.LocalDomains),
	}
}

func over[S ~[]E, E any](top, base S) S {
	if top != nil {
		return top
	}
	return base
}

// words is the list of a stage.
func (c *Config) words(at stage) Words {
	return [stageCount]Words{
		c.Client, c.Helo, c.Sender, c.Relay, c.Recipient, c.Data, c.EndOfData,
	}[at]
}

// Validate reports what the values cannot mean together or in their place.
// Each one by itself was checked when it was read.
func (c *Config) Validate(bad func(key, why string)) {
	for _, n := range c.MyNetworks {
		if tooWide(n) {
			bad("mynetworks", fmt.Sprintf("%s trusts a large part of the Internet; name the networks of your own clients", n))
		}
	}
	for _, d := range c.RelayDomains {
		if slices.Contains(c.LocalDomains, d) {
			bad("relay_domains", fmt.Sprintf("%s is in local_domains too; take it out of one of them", d))
		}
	}
}
