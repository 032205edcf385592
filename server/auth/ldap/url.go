package ldap

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// A URL says where a server is and how to speak to it:
//
//	ldap://HOST[:PORT]   StartTLS, or clear text on loopback; port 389
//	ldaps://HOST[:PORT]  TLS from the first byte; port 636
//	ldapi:///PATH        a Unix socket; ldapi:/// alone is /run/slapd/ldapi
//
// The path of a socket may be written with %2F as OpenLDAP wants it. A URL is
// a comparable value; the zero value is no server.
type URL struct {
	scheme  string
	host    string // without brackets; empty for a Unix socket
	address string // HOST:PORT or PATH, as net.Dial wants it
}

const (
	schemePlain = "ldap"
	schemeTLS   = "ldaps"
	schemeUnix  = "ldapi"

	defaultSocket = "/run/slapd/ldapi"

	// longestSocketPath is what fits into sockaddr_un on Linux, without the NUL.
	longestSocketPath = 107
)

var errURLForm = errors.New("write ldap://HOST:PORT, ldaps://HOST:PORT or ldapi:///PATH")

// UnmarshalText implements encoding.TextUnmarshaler. No error repeats the text,
// since somebody may have written a password into it.
func (u *URL) UnmarshalText(text []byte) error {
	parsed, err := parseURL(string(text))
	if err != nil {
		return err
	}
	*u = parsed
	return nil
}

func (u URL) String() string { return u.scheme + "://" + u.address }

// network is the network for net.Dial.
func (u URL) network() string {
	if u.scheme == schemeUnix {
		return "unix"
	}
	return "tcp"
}

// local reports that nobody stands between us and the server.
func (u URL) local() bool {
	if u.scheme == schemeUnix || u.host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(u.host)
	return err == nil && ip.IsLoopback()
}

func parseURL(text string) (URL, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	scheme = strings.ToLower(scheme)
	switch {
	case !ok || scheme != schemePlain && scheme != schemeTLS && scheme != schemeUnix:
		return URL{}, fmt.Errorf("not the URL of a server: %w", errURLForm)
	case scheme == schemeUnix:
		return parseSocket(rest)
	case strings.Contains(rest, "@"):
		return URL{}, errors.New("user and password do not belong into the URL, where logs would show them: write bind_dn and bind_password_file")
	}
	// The error of url.Parse would repeat what may be a secret.
	parsed, err := url.Parse(scheme + "://" + rest)
	if err != nil {
		return URL{}, fmt.Errorf("host or port is malformed: %w", errURLForm)
	}
	return hostURL(parsed)
}

func hostURL(parsed *url.URL) (URL, error) {
	if p := parsed.Path; p != "" && p != "/" || parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "" {
		return URL{}, errors.New("nothing may follow the port: write the base of the search into search_base")
	}
	host := strings.ToLower(parsed.Hostname())
	if !validHost(host, strings.HasPrefix(parsed.Host, "[")) {
		return URL{}, errors.New("the host is neither a name nor an address (IPv6 stands in brackets: ldap://[::1]:389)")
	}
	port := map[string]string{schemePlain: "389", schemeTLS: "636"}[parsed.Scheme]
	if p := parsed.Port(); p != "" {
		port = p
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return URL{}, errors.New("the port is not a number from 1 to 65535")
	}
	return URL{parsed.Scheme, host, net.JoinHostPort(host, strconv.FormatUint(n, 10))}, nil
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

func parseSocket(rest string) (URL, error) {
	path, err := url.PathUnescape(rest)
	switch {
	case err != nil:
		return URL{}, errors.New("the path of the socket has a % without two hexadecimal digits")
	case path == "/" || path == "":
		path = defaultSocket
	case !filepath.IsAbs(path):
		return URL{}, errors.New("a socket is named by its absolute path, with three slashes: ldapi:///PATH")
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return URL{}, errors.New("the path of the socket has a control character in it")
	case len(path) > longestSocketPath:
		return URL{}, fmt.Errorf("the path of the socket is longer than %d bytes, which the system does not take", longestSocketPath)
	}
	return URL{schemeUnix, "", path}, nil
}
