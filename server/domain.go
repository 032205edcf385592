package server

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// domainName is a fully qualified name or a single label (RFC 5321, section 4.1.2), with
// underscores, which names of containers have, and with letters outside ASCII (RFC 6531).
var domainName = regexp.MustCompile(`^[\pL\pN](?:[\pL\pM\pN_-]*[\pL\pM\pN])?(?:\.[\pL\pN_](?:[\pL\pM\pN_-]*[\pL\pM\pN])?)*$`)

// maxDomain is the longest domain (RFC 5321, section 4.5.3.1.2), in octets.
const maxDomain = 255

// badDomain returns why name, the value of key, is not a domain name, and what to write. It
// returns "" for a domain name.
func badDomain(key, name string) string {
	example := "mail.example.org"
	if key == "origin" {
		example = "example.org"
	}
	write := func(domain string) string {
		if badDomain(key, domain) != "" {
			domain = example
		}
		return fmt.Sprintf("; write %s = %q", key, domain)
	}
	u, err := url.Parse(name)
	host, port, portErr := net.SplitHostPort(name)
	_, addrErr := netip.ParseAddr(strings.Trim(name, "[]"))
	_, domain, hasAt := strings.Cut(name, "@")
	switch {
	case err == nil && u.Host != "":
		return "is a URL, not a domain name" + write(u.Hostname())
	case addrErr == nil:
		return "is an address; other servers and the certificate expect a name" + write(example)
	case portErr == nil && port != "":
		return "is a name with a port" + write(host) + ", and the port in address of [[listener]]"
	case strings.HasPrefix(name, "*."):
		return "is a wildcard, not the name of one server" + write(strings.TrimSuffix(example, "example.org")+name[2:])
	case hasAt:
		return "is a mail address, not a domain name" + write(domain)
	case strings.HasSuffix(name, ".") && domainName.MatchString(strings.TrimSuffix(name, ".")):
		return "ends with a dot, which SMTP does not permit" + write(strings.TrimSuffix(name, "."))
	case strings.Contains(name, "/"):
		return "is a path, not a domain name" + write(name[:strings.IndexByte(name, '/')])
	case len(name) > maxDomain || !domainName.MatchString(name):
		return "is not a domain name; write it like " + example
	}
	return ""
}
