package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// A HopURL says where a next hop is and how to speak to it:
//
//	smtp://HOST[:PORT]           clear text, port 25
//	smtp+starttls://HOST[:PORT]  STARTTLS enforced, port 587
//	smtps://HOST[:PORT]          implicit TLS, port 465
//	smtp+unix:///PATH            clear text over a Unix socket
//
// It is a comparable value and holds no secret. The zero value is no hop.
type HopURL struct {
	scheme  string
	host    string // without brackets; empty for a Unix socket
	address string // HOST:PORT or PATH, as net.Dial wants it
}

const (
	schemePlain    = "smtp"
	schemeTLS      = "smtps"
	schemeStartTLS = "smtp+starttls"
	schemeUnix     = "smtp+unix"
)

// longestSocketPath is what fits into sockaddr_un on Linux, without the NUL.
const longestSocketPath = 107

var errURLForm = errors.New("write smtp://HOST:PORT, smtp+starttls://HOST:PORT, smtps://HOST:PORT or smtp+unix:///PATH")

// UnmarshalText reads the spelling of the configuration. No error repeats the
// text, since somebody may have written a password into it.
func (u *HopURL) UnmarshalText(text []byte) error {
	parsed, err := parseHopURL(string(text))
	if err != nil {
		return err
	}
	*u = parsed
	return nil
}

// MarshalText is the reverse of UnmarshalText; the port is always written.
func (u HopURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

func (u HopURL) String() string { return u.scheme + "://" + u.address }

// network is the network for net.Dial.
func (u HopURL) network() string {
	if u.scheme == schemeUnix {
		return "unix"
	}
	return "tcp"
}

func (u HopURL) secure() bool { return u.scheme == schemeTLS || u.scheme == schemeStartTLS }

// local reports that nobody stands between us and the hop.
func (u HopURL) local() bool {
	if u.scheme == schemeUnix || u.host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(u.host)
	return err == nil && ip.IsLoopback()
}

func parseHopURL(text string) (HopURL, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	scheme = strings.ToLower(scheme)
	port := defaultPort(scheme)
	switch {
	case !ok || port == "" && scheme != schemeUnix:
		return HopURL{}, fmt.Errorf("not the URL of a next hop: %w", errURLForm)
	case scheme == schemeUnix:
		return parseSocket(rest)
	case strings.Contains(rest, "@"):
		return HopURL{}, errors.New("user and password do not belong into the URL, where logs would show them: put them into a file and name it in relay.credentials")
	}
	// The error of url.Parse would repeat what may be a secret.
	parsed, err := url.Parse(scheme + "://" + rest)
	if err != nil {
		return HopURL{}, fmt.Errorf("host or port is malformed: %w", errURLForm)
	}
	return hostURL(parsed, port)
}

func defaultPort(scheme string) string {
	switch scheme {
	case schemePlain:
		return "25"
	case schemeTLS:
		return "465"
	case schemeStartTLS:
		return "587"
	}
	return ""
}

func hostURL(parsed *url.URL, port string) (HopURL, error) {
	if p := parsed.Path; p != "" && p != "/" || parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "" {
		return HopURL{}, fmt.Errorf("nothing may follow the port: %w", errURLForm)
	}
	host := strings.ToLower(parsed.Hostname())
	if !validHost(host, strings.HasPrefix(parsed.Host, "[")) {
		return HopURL{}, fmt.Errorf("the host is neither a name nor an address (IPv6 stands in brackets: smtp://[::1]:25): %w", errURLForm)
	}
	if p := parsed.Port(); p != "" {
		port = p
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return HopURL{}, errors.New("the port is not a number from 1 to 65535")
	}
	return HopURL{parsed.Scheme, host, net.JoinHostPort(host, strconv.FormatUint(n, 10))}, nil
}

// validHost keeps out what could be taken for something else in a log or a
// certificate check; whether the name exists is found out later.
func validHost(host string, bracketed bool) bool {
	if bracketed {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Is6() && ip.Zone() == ""
	}
	odd := func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789.-_", r) }
	return host != "" && len(host) <= 253 && host[0] != '.' && host[0] != '-' && !strings.ContainsFunc(host, odd)
}

func parseSocket(path string) (HopURL, error) {
	switch {
	case !strings.HasPrefix(path, "/") || path == "/":
		return HopURL{}, errors.New("a socket is named by its absolute path, with three slashes: smtp+unix:///PATH")
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return HopURL{}, errors.New("the path of the socket has a control character in it")
	case len(path) > longestSocketPath:
		return HopURL{}, fmt.Errorf("the path of the socket is longer than %d bytes, which the system does not take", longestSocketPath)
	}
	return HopURL{schemeUnix, "", path}, nil
}
