package ldapclient

import (
	"errors"
	"fmt"
	"net/url"

	"postern/internal/hosturl"
)

// A URL is the address of a server and how to connect to it:
//
//	ldap://HOST[:PORT]   StartTLS, or clear text on loopback; port 389
//	ldaps://HOST[:PORT]  TLS from the first byte; port 636
//	ldapi:///PATH        a Unix socket; ldapi:/// alone is /run/slapd/ldapi
//
// The path of a socket may be written with %2F, as OpenLDAP does. A URL is
// a comparable value; the zero value is no server.
type URL struct{ hosturl.URL }

const (
	schemePlain = "ldap"
	schemeTLS   = "ldaps"
	schemeUnix  = "ldapi"

	defaultSocket = "/run/slapd/ldapi"
)

// UnmarshalText implements encoding.TextUnmarshaler. No error repeats the text,
// which may contain a password.
func (u *URL) UnmarshalText(text []byte) error {
	parsed, err := parseURL(string(text))
	if err != nil {
		return err
	}
	u.URL = parsed
	return nil
}

func parseURL(text string) (u hosturl.URL, err error) {
	errForm := errors.New("write ldap://HOST:PORT, ldaps://HOST:PORT or ldapi:///PATH")
	scheme, rest, ok := hosturl.SplitScheme(text)
	switch {
	case ok && scheme == schemeUnix:
		return parseSocket(rest)
	case ok && scheme == schemePlain:
		u, err = hosturl.Parse(scheme, rest, "389")
	case ok && scheme == schemeTLS:
		u, err = hosturl.Parse(scheme, rest, "636")
	default:
		return u, fmt.Errorf("not the URL of a server: %w", errForm)
	}
	switch {
	case errors.Is(err, hosturl.ErrUser):
		err = fmt.Errorf("%w: set bind_dn and bind_password_file", err)
	case errors.Is(err, hosturl.ErrRest):
		err = fmt.Errorf("%w: set search_base to the base of the search", err)
	case errors.Is(err, hosturl.ErrSyntax):
		err = fmt.Errorf("%w: %w", err, errForm)
	}
	return u, err
}

func parseSocket(rest string) (hosturl.URL, error) {
	path, err := url.PathUnescape(rest)
	if err != nil {
		return hosturl.URL{}, errors.New("the path of the socket has a % without two hexadecimal digits")
	}
	if path == "/" || path == "" {
		path = defaultSocket
	}
	return hosturl.Socket(schemeUnix, path)
}
