package relay

import (
	"errors"
	"fmt"

	"postern/internal/hosturl"
)

// A HopURL is the address of a next hop and how to connect to it:
//
//	smtp://HOST[:PORT]           clear text, port 25
//	smtp+starttls://HOST[:PORT]  STARTTLS enforced, port 587
//	smtps://HOST[:PORT]          implicit TLS, port 465
//	smtp+unix:///PATH            clear text over a Unix socket
//
// It is a comparable value and holds no secret. The zero value is no hop.
type HopURL struct{ hosturl.URL }

const (
	schemePlain    = "smtp"
	schemeTLS      = "smtps"
	schemeStartTLS = "smtp+starttls"
	schemeUnix     = "smtp+unix"
)

var errURLForm = errors.New("write smtp://HOST:PORT, smtp+starttls://HOST:PORT, smtps://HOST:PORT or smtp+unix:///PATH")

// UnmarshalText reads the spelling of the configuration. No error repeats the
// text, which may contain a password.
func (u *HopURL) UnmarshalText(text []byte) error {
	parsed, err := parseHopURL(string(text))
	if err != nil {
		return err
	}
	u.URL = parsed
	return nil
}

// MarshalText is the reverse of UnmarshalText; the port is always written.
func (u HopURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

func (u HopURL) secure() bool { return u.Scheme == schemeTLS || u.Scheme == schemeStartTLS }

func parseHopURL(text string) (hosturl.URL, error) {
	scheme, rest, ok := hosturl.SplitScheme(text)
	port := defaultPort(scheme)
	switch {
	case ok && scheme == schemeUnix:
		return hosturl.Socket(scheme, rest)
	case !ok || port == "":
		return hosturl.URL{}, fmt.Errorf("not the URL of a next hop: %w", errURLForm)
	}
	u, err := hosturl.Parse(scheme, rest, port)
	switch {
	case errors.Is(err, hosturl.ErrUser):
		err = fmt.Errorf("%w: put them into a file and name it in relay.credentials", err)
	case err != nil && !errors.Is(err, hosturl.ErrPort):
		err = fmt.Errorf("%w: %w", err, errURLForm)
	}
	return u, err
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
