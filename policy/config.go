package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"postern/internal/netprefix"
)

// Config is the section [policy], and that of a listener.
type Config struct {
	// The lists, each named after Postfix's smtpd_..._restrictions. All of them are
	// evaluated at RCPT, except the last two.
	Client    Words `toml:"client"`
	Helo      Words `toml:"helo"`
	Sender    Words `toml:"sender"`
	Relay     Words `toml:"relay"`
	Recipient Words `toml:"recipient"`
	Data      Words `toml:"data"`
	EndOfData Words `toml:"end_of_data"`

	// MyNetworks are the clients that permit_mynetworks permits.
	MyNetworks Networks `toml:"mynetworks"`
	// RelayDomains and LocalDomains are the destinations that reject_unauth_destination
	// and its relatives accept. For LocalDomains, which is Postfix's mydestination, this
	// server is the final destination. Unlike in Postfix, a domain matches only itself,
	// and ".example.org" matches everything below it.
	RelayDomains Domains `toml:"relay_domains"`
	LocalDomains Domains `toml:"local_domains"`
}

// Defaults permits authenticated clients and rejects all others.
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

// words is the list of a stage.
func (c *Config) words(at stage) Words {
	return [stageCount]Words{
		c.Client, c.Helo, c.Sender, c.Relay, c.Recipient, c.Data, c.EndOfData,
	}[at]
}

// Validate reports values that contradict each other. Each value by itself was checked when
// it was decoded.
func (c *Config) Validate(bad func(key, why string)) {
	for _, n := range c.MyNetworks {
		if tooWide(n) {
			bad("mynetworks", fmt.Sprintf("%s trusts a large part of the Internet; name the networks of your own clients", n))
		}
	}
	for _, d := range c.RelayDomains {
		if slices.Contains(c.LocalDomains, d) {
			bad("relay_domains", fmt.Sprintf("%s is in local_domains too; remove it from one of them", d))
		}
	}
}

// Networks are address blocks. In the file they are a string or an array of strings, as in
// Postfix's mynetworks: "127.0.0.0/8 [::1]/128 192.0.2.7".
type Networks []netip.Prefix

// UnmarshalText decodes a string.
func (n *Networks) UnmarshalText(text []byte) error {
	networks := Networks{}
	for _, field := range fields(string(text)) {
		p, err := netprefix.Parse(field)
		if err != nil {
			return err
		}
		networks = append(networks, p)
	}
	*n = networks
	return nil
}

// UnmarshalTOML decodes a string or an array of strings.
func (n *Networks) UnmarshalTOML(value any) error {
	text, err := oneString(value)
	if err != nil {
		return err
	}
	return n.UnmarshalText([]byte(text))
}

// contain reports whether addr is in one of the networks. An IPv4 address that is mapped into
// IPv6 counts as IPv4.
func (n Networks) contain(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range n {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// Networks with shorter prefixes than these are parts of the Internet, not private ones. The
// largest blocks of private addresses are 10.0.0.0/8 and fc00::/7.
const (
	minBits4 = 8
	minBits6 = 7
)

func tooWide(n netip.Prefix) bool {
	if n.Addr().Is4() {
		return n.Bits() < minBits4
	}
	return n.Bits() < minBits6
}

// Domains are domain names. In the file they are a string or an array of strings. They are
// kept as A-labels in lower case; ".example.org" matches everything below example.org.
type Domains []string

// UnmarshalText decodes a string.
func (d *Domains) UnmarshalText(text []byte) error {
	domains := Domains{}
	for _, field := range fields(string(text)) {
		bare, below := strings.CutPrefix(field, ".")
		name, ok := asciiDomain(bare)
		if !ok {
			return fmt.Errorf("%q is not a domain name: write \"example.org\", or \".example.org\" for everything below it", field)
		}
		if below {
			name = "." + name
		}
		domains = append(domains, name)
	}
	*d = domains
	return nil
}

// UnmarshalTOML decodes a string or an array of strings.
func (d *Domains) UnmarshalTOML(value any) error {
	text, err := oneString(value)
	if err != nil {
		return err
	}
	return d.UnmarshalText([]byte(text))
}

// fields splits a list at commas and blanks, as Postfix does.
func fields(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool {
		return strings.ContainsRune(", \t\r\n", c)
	})
}

// oneString joins the two forms of a list.
func oneString(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case []any:
		parts := make([]string, len(v))
		for i, element := range v {
			s, ok := element.(string)
			if !ok {
				return "", fmt.Errorf("element %d is %v, expected a string in quotes", i+1, element)
			}
			parts[i] = s
		}
		return strings.Join(parts, ","), nil
	}
	return "", fmt.Errorf(`%v is neither a string ("a, b") nor an array of strings (["a", "b"])`, value)
}
