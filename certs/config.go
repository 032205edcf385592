package certs

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// Config is the section [tls].
type Config struct {
	// Certificates are the pairs to choose from. The first one serves clients
	// that send no server name, or one that no certificate contains.
	Certificates []Pair `toml:"certificates"`

	// MinVersion is the oldest TLS version that is accepted: "1.2" or "1.3".
	MinVersion Version `toml:"min_version"`

	// SessionTickets lets clients resume a session without a whole handshake
	// (RFC 5077, and RFC 8446, section 2.2). crypto/tls sends the tickets of
	// TLS 1.3 before it has read the client's Finished message (RFC 8446,
	// section 4.6.1, allows that), and Microsoft's sending servers closed the
	// connection on it (https://go.dev/issue/70232).
	SessionTickets bool `toml:"session_tickets"`
}

// A Pair names the two PEM files of one certificate: [[tls.certificates]].
type Pair struct {
	Cert string `toml:"cert"` // the certificate and its chain
	Key  string `toml:"key"`  // its private key, not encrypted
}

// Defaults is the configuration of an empty section. The file names are those
// of certbot.
func Defaults() Config {
	return Config{
		Certificates: []Pair{{
			Cert: "/etc/postern/tls/fullchain.pem",
			Key:  "/etc/postern/tls/privkey.pem",
		}},
		MinVersion:     tls.VersionTLS12,
		SessionTickets: true,
	}
}

// Validate calls bad for each invalid key of c, with the reason.
func (c *Config) Validate(bad func(key, why string)) {
	if len(c.Certificates) == 0 {
		bad("certificates", "is empty, but logging in requires TLS; "+
			"name at least one pair in [[tls.certificates]], or leave it out for the default")
	}
	seen := make(map[Pair]bool)
	for i, p := range c.Certificates {
		at := fmt.Sprintf("certificates[%d]", i)
		p.validate(func(key, why string) { bad(at+key, why) })
		if seen[p] {
			bad(at, "names the same pair as an earlier one; remove one of them")
		}
		seen[p] = true
	}
}

func (p Pair) validate(bad func(key, why string)) {
	if p.Cert == "" {
		bad(".cert", "is missing; name the PEM file with the certificate and its chain")
	}
	switch {
	case p.Key == "":
		bad(".key", "is missing; name the PEM file with the private key")
	case strings.Contains(p.Key, "-----BEGIN"):
		bad(".key", "holds the key itself; put it into a file that the server's user alone can read, and name that file")
	}
}

// A Version is a TLS version, as a constant of crypto/tls.
type Version uint16

// UnmarshalText reads "1.2" or "1.3".
func (v *Version) UnmarshalText(text []byte) error {
	switch string(text) {
	case "1.2":
		*v = tls.VersionTLS12
	case "1.3":
		*v = tls.VersionTLS13
	default:
		// RFC 8996 deprecates TLS 1.0 and 1.1.
		return fmt.Errorf(`%q is not an accepted TLS version; write "1.2" or "1.3"`, text)
	}
	return nil
}

func (v Version) String() string {
	if v == tls.VersionTLS13 {
		return "1.3"
	}
	return "1.2"
}
