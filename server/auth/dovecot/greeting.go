package dovecot

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"postern/server/auth"
)

// Bounds of a greeting.
const (
	maxMechanisms    = 64
	maxGreetingLines = 256
)

// A mechanism that Dovecot offers.
type mechanism struct {
	name       string
	properties auth.MechanismProperties
}

// A greeting is what Dovecot sends first on a connection.
type greeting struct {
	major, minor int
	mechanisms   []mechanism
	pid          bool // SPID was received
}

var (
	errNoMechanisms = errors.New("dovecot offers no mechanism")
	errWrongSocket  = errors.New("this looks like a master or userdb socket of Dovecot; use one of its auth-client sockets")
)

// readGreeting reads until DONE. With an error it returns the greeting as far as it was
// received. CUID and COOKIE are for master requests, which this client does not make; other
// unknown lines belong to a later minor version.
func readGreeting(r lineReader) (*greeting, error) {
	g := &greeting{}
	for range maxGreetingLines {
		fields, err := r.next()
		if err != nil {
			return g, err
		}
		switch fields[0] {
		case "DONE":
			if g.major > 0 && len(g.mechanisms) == 0 {
				return g, errNoMechanisms
			}
		case "VERSION":
			err = g.setVersion(fields[1:])
		case "MECH":
			g.addMechanism(fields[1:])
		case "SPID":
			g.pid = true
		}
		if err == nil && g.major == 0 {
			err = fmt.Errorf("%w: it does not begin with VERSION", errProtocol)
		}
		if err != nil || fields[0] == "DONE" {
			return g, err
		}
	}
	return g, fmt.Errorf("%w: a greeting of more than %d lines", errProtocol, maxGreetingLines)
}

// setVersion accepts every minor version: only another major version is incompatible.
func (g *greeting) setVersion(fields []string) error {
	if len(fields) < 2 {
		return fmt.Errorf("%w: VERSION without two numbers", errProtocol)
	}
	major, err := strconv.ParseUint(fields[0], 10, 16)
	minor, minorErr := strconv.ParseUint(fields[1], 10, 16)
	if err := errors.Join(err, minorErr); err != nil {
		return fmt.Errorf("%w: VERSION with invalid numbers", errProtocol)
	}
	if major != 1 {
		return fmt.Errorf("dovecot uses version %d of the protocol; postern supports version 1", major)
	}
	g.major, g.minor = int(major), int(minor)
	return nil
}

// RFC 4422, section 3.1: 1 to 20 of these characters.
var mechanismName = regexp.MustCompile(`^[A-Z0-9_-]{1,20}$`)

// addMechanism adds a mechanism if it can be offered to clients. EXTERNAL and the -PLUS
// mechanisms cannot: Dovecot does not see the client's TLS connection, and so neither
// its certificate nor its channel binding.
func (g *greeting) addMechanism(fields []string) {
	if len(fields) == 0 || len(g.mechanisms) == maxMechanisms || !mechanismName.MatchString(fields[0]) {
		return
	}
	m := mechanism{name: fields[0]}
	usable := m.name != "EXTERNAL" && !strings.HasSuffix(m.name, "-PLUS")
	for _, flag := range fields[1:] {
		switch strings.ToLower(flag) {
		case "anonymous":
			m.properties |= auth.MechanismAnonymous
		case "plaintext":
			m.properties |= auth.MechanismPlaintext
		case "dictionary":
			m.properties |= auth.MechanismDictionary
		case "active":
			m.properties |= auth.MechanismActive
		case "forward-secrecy":
			m.properties |= auth.MechanismForwardSecrecy
		case "mutual-auth":
			m.properties |= auth.MechanismMutualAuth
		case "private", "channel-binding":
			usable = false
		}
	}
	if usable && !offers(g.mechanisms, m.name) {
		g.mechanisms = append(g.mechanisms, m)
	}
}

func offers(mechanisms []mechanism, name string) bool {
	return slices.ContainsFunc(mechanisms, func(m mechanism) bool { return m.name == name })
}

// explain adds the likely cause to the error of an incomplete greeting. A master socket
// sends VERSION and SPID, and then waits for requests.
func (g *greeting) explain(err error) error {
	if g.pid && len(g.mechanisms) == 0 && !errors.Is(err, errNoMechanisms) {
		return fmt.Errorf("%w: %w", errWrongSocket, err)
	}
	if g.major == 0 {
		return fmt.Errorf("the daemon did not send the greeting of Dovecot's auth service (run \"postern check\", which finds out what it is): %w", err)
	}
	return fmt.Errorf("dovecot did not complete its greeting: %w", err)
}

// maxLine is the longest line to send, with the line feed.
func (g *greeting) maxLine() int {
	if g.minor < 2 {
		return maxOldLine
	}
	return maxLine
}
