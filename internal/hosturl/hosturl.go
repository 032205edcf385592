// Package hosturl reads the URLs of servers that postern connects to, such as
// smtps://HOST:PORT and ldapi:///PATH. It does not interpret the
// scheme: the caller compares it, gives the default port, and adds the next step to
// errors.
package hosturl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// A URL is the address of a server. It is comparable and holds no secret; the zero
// value is no server.
type URL struct {
	Scheme  string // in lower case
	Host    string // in lower case, without brackets; empty for a Unix socket
	Address string // HOST:PORT or the path of the socket, for net.Dial
}

// What is wrong with a URL. No error repeats the text of the URL, which may contain a
// password.
var (
	ErrUser   = errors.New("the URL must not contain a user name or password, because logs would show it")
	ErrSyntax = errors.New("host or port is malformed")
	ErrRest   = errors.New("nothing may follow the port")
	ErrHost   = errors.New("the host is neither a name nor an address (write IPv6 in brackets: [::1])")
	ErrPort   = errors.New("the port is not a number from 1 to 65535")
)

// String returns the URL in one spelling, with the port.
func (u URL) String() string { return u.Scheme + "://" + u.Address }

// Network returns the network for net.Dial.
func (u URL) Network() string {
	if u.isSocket() {
		return "unix"
	}
	return "tcp"
}

func (u URL) isSocket() bool { return strings.HasPrefix(u.Address, "/") }

// IsLocal reports whether the connection does not leave this machine.
func (u URL) IsLocal() bool {
	if u.isSocket() || u.Host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(u.Host)
	return err == nil && ip.IsLoopback()
}

// SplitScheme returns the scheme of a URL, in lower case, and what follows "://".
func SplitScheme(text string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(text, "://")
	return strings.ToLower(scheme), rest, ok
}

// Parse reads HOST or HOST:PORT, which may be followed by one "/".
func Parse(scheme, rest, defaultPort string) (URL, error) {
	if strings.Contains(rest, "@") {
		return URL{}, ErrUser
	}
	parsed, err := url.Parse(scheme + "://" + rest)
	if err != nil {
		return URL{}, ErrSyntax // err repeats the text
	}
	if p := parsed.Path; p != "" && p != "/" || parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "" {
		return URL{}, ErrRest
	}
	host := strings.ToLower(parsed.Hostname())
	if !validHost(host, strings.HasPrefix(parsed.Host, "[")) {
		return URL{}, ErrHost
	}
	port := parsed.Port()
	if port == "" {
		port = defaultPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return URL{}, ErrPort
	}
	return URL{scheme, host, net.JoinHostPort(host, strconv.FormatUint(n, 10))}, nil
}

// validHost accepts an IPv6 address in brackets, an IPv4 address, and what looks like a
// name. Characters that logs and certificate checks could misread are refused. Whether
// the name exists is found out later.
func validHost(host string, bracketed bool) bool {
	if bracketed {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Is6() && ip.Zone() == ""
	}
	odd := func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789.-_", r) }
	return host != "" && len(host) <= 253 && host[0] != '.' && host[0] != '-' && !strings.ContainsFunc(host, odd)
}

// maxSocketPath is the longest path that fits into sockaddr_un on Linux, without NUL.
const maxSocketPath = 107

// Socket returns the URL of the Unix socket with this path, which is not decoded.
func Socket(scheme, path string) (URL, error) {
	switch {
	case !strings.HasPrefix(path, "/") || path == "/":
		return URL{}, fmt.Errorf("the path of a socket must be absolute: write %s:///PATH, with three slashes", scheme)
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return URL{}, errors.New("the path of the socket contains a control character")
	case len(path) > maxSocketPath:
		return URL{}, fmt.Errorf("the path of the socket is longer than %d bytes, the limit of the system", maxSocketPath)
	}
	return URL{scheme, "", path}, nil
}
