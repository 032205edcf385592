package dovecot

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"postern/server/auth"
)

// Bounds of what Dovecot may say before it gets to the point.
const (
	maxMechanisms    = 64
	maxGreetingLines = 256
)

// A mechanism as Dovecot offers it.
type mechanism struct {
	name       string
	properties auth.MechanismProperties
}

// A greeting is what Dovecot says of itself at the beginning of a connection.
type greeting struct {
	major, minor int
	mechanisms   []mechanism
	pid          bool // SPID has come
}

// hello is our side of the greeting. Dovecot needs no process id to tell
// its clients apart, but it wants one.
func hello() []byte {
	line := lineOf("VERSION", "1", "2").end()
	return append(line, lineOf("CPID", strconv.Itoa(os.Getpid())).end()...)
}

var (
	errNoMechanisms = errors.New("dovecot offers no mechanism")
	errWrongSocket  = errors.New("this looks like a master or userdb socket of Dovecot; name one of its auth-client sockets")
)

// readGreeting reads until DONE. The greeting is returned with an error, too,
// as far as it came.
func readGreeting(r lineReader) (*greeting, error) {
	g := &greeting{}
	for range maxGreetingLines {
		fields, err := r.next()
		if err != nil {
			return g, err
		}
		if fields[0] == "DONE" {
			return g, g.check()
		}
		if err := g.take(fields); err != nil {
			return g, err
		}
	}
	return g, fmt.Errorf("%w: a greeting of more than %d lines", errProtocol, maxGreetingLines)
}

// take reads one line. CUID and COOKIE are for master requests, which are not
// made here; what is not known belongs to a later minor version.
func (g *greeting) take(fields []string) error {
	switch fields[0] {
	case "VERSION":
		return g.takeVersion(fields[1:])
	case "MECH":
		g.takeMechanism(fields[1:])
	case "SPID":
		g.pid = true
	}
	if g.major == 0 {
		return fmt.Errorf("%w: it does not begin with VERSION", errProtocol)
	}
	return nil
}

func (g *greeting) takeVersion(fields []string) error {
	if len(fields) < 2 {
		return fmt.Errorf("%w: VERSION without two numbers", errProtocol)
	}
	major, err := strconv.ParseUint(fields[0], 10, 16)
	minor, minorErr := strconv.ParseUint(fields[1], 10, 16)
	if err := errors.Join(err, minorErr); err != nil {
		return fmt.Errorf("%w: VERSION with numbers that are none", errProtocol)
	}
	// Another major version is another protocol, minor ones get on.
	if major != 1 {
		return fmt.Errorf("dovecot speaks version %d of its protocol, this is for version 1", major)
	}
	g.major, g.minor = int(major), int(minor)
	return nil
}

// RFC 4422, section 3.1: 1 to 20 of these characters.
var mechanismName = regexp.MustCompile(`^[A-Z0-9_-]{1,20}$`)

// takeMechanism notes a mechanism that can be offered to clients.
func (g *greeting) takeMechanism(fields []string) {
	if len(fields) == 0 || len(g.mechanisms) == maxMechanisms || !mechanismName.MatchString(fields[0]) {
		return
	}
	m := mechanism{name: fields[0]}
	usable := works(m.name)
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

// works leaves out what needs something of the client's TLS connection that
// Dovecot does not see: its certificate, or a channel binding.
func works(name string) bool {
	return name != "EXTERNAL" && !strings.HasSuffix(name, "-PLUS")
}

func offers(mechanisms []mechanism, name string) bool {
	return slices.ContainsFunc(mechanisms, func(m mechanism) bool { return m.name == name })
}

// check judges a complete greeting.
func (g *greeting) check() error {
	switch {
	case g.major == 0:
		return fmt.Errorf("%w: it does not begin with VERSION", errProtocol)
	case len(g.mechanisms) == 0:
		return errNoMechanisms
	}
	return nil
}

// explain says more of a greeting that did not end. A master socket says
// VERSION and SPID and then waits.
func (g *greeting) explain(err error) error {
	if g.pid && len(g.mechanisms) == 0 && !errors.Is(err, errNoMechanisms) {
		return fmt.Errorf("%w: %w", errWrongSocket, err)
	}
	return fmt.Errorf("dovecot did not complete its greeting: %w", err)
}

// maxLine is how long a line that we send may be, with the line feed.
func (g *greeting) maxLine() int {
	if g.minor < 2 {
		return maxOldLine
	}
	return maxLine
}
