package dovecot

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"postern/internal/text"
	"postern/server/auth"
)

// The lines of the protocol: how they are read, what the answers mean, and how the
// client's lines are written.

// The longest line, in both directions: the peer closes the connection after a longer
// one. In versions 1.0 and 1.1 Dovecot's own bound was half of it.
const (
	maxLine    = 16384 // bytes, with the line feed
	maxOldLine = 8192
)

// errProtocol is wrapped by every violation of the protocol. The connection ends with
// it, since its further lines cannot be trusted.
var errProtocol = errors.New("not Dovecot's authentication protocol")

// A lineReader reads lines of at most maxLine bytes.
type lineReader struct{ in *bufio.Reader }

func newLineReader(in io.Reader) lineReader { return lineReader{bufio.NewReaderSize(in, maxLine)} }

// next returns the fields of the next line. A line without its line feed at the end of
// the stream is an error.
func (r lineReader) next() ([]string, error) {
	line, err := r.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: a line longer than %d bytes", errProtocol, maxLine)
	}
	if err != nil {
		return nil, err
	}
	return splitLine(line[:len(line)-1]), nil
}

func splitLine(line []byte) []string {
	var fields []string
	for field := range bytes.SplitSeq(line, []byte{'\t'}) {
		fields = append(fields, unescape(string(field)))
	}
	return fields
}

// The characters that would end a field or a line, and their escapes.
var escaper = strings.NewReplacer("\x00", "\x010", "\x01", "\x011", "\t", "\x01t", "\r", "\x01r", "\n", "\x01l")

func escape(s string) string { return escaper.Replace(s) }

// unescape reverses escape. The escape of any other character is that character; an
// escape without a character at the end is dropped.
func unescape(s string) string {
	if !strings.Contains(s, "\x01") {
		return s
	}
	var plain strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\x01' {
			plain.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			break
		}
		c := s[i]
		if at := strings.IndexByte("01trl", c); at >= 0 {
			c = "\x00\x01\t\r\n"[at]
		}
		plain.WriteByte(c)
	}
	return plain.String()
}

// The verbs of answers to an exchange.
const (
	verbOK   = "OK"
	verbCont = "CONT"
	verbFail = "FAIL"
)

// An answer is Dovecot's answer to one message of one exchange.
type answer struct {
	verb   string
	id     uint32
	data   []byte // CONT: the challenge; OK: the last message for the client, or nil
	params params
}

// parseAnswer parses a line that begins with one of the three verbs.
func parseAnswer(fields []string) (answer, error) {
	if len(fields) < 2 {
		return answer{}, fmt.Errorf("%w: %s without a number", errProtocol, fields[0])
	}
	id, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %s with an invalid number", errProtocol, fields[0])
	}
	a := answer{verb: fields[0], id: uint32(id), params: fields[2:]}
	encoded, present := a.params.get("resp")
	switch a.verb {
	case verbCont:
		if len(fields) < 3 {
			return answer{}, fmt.Errorf("%w: CONT without data", errProtocol)
		}
		encoded, present = fields[2], true
	case verbFail:
		present = false
	}
	if present {
		a.data, err = base64.StdEncoding.DecodeString(encoded)
	}
	if err != nil {
		return answer{}, fmt.Errorf("%w: %s with data that is not base64", errProtocol, a.verb)
	}
	return a, nil
}

// params are the optional parameters of a line: "name" or "name=value".
type params []string

// get returns the value of the first parameter of that name.
func (p params) get(name string) (value string, ok bool) {
	for _, one := range p {
		if n, v, _ := strings.Cut(one, "="); n == name {
			return v, true
		}
	}
	return "", false
}

func (p params) has(name string) bool {
	_, ok := p.get(name)
	return ok
}

// Bounds of the values that are taken from an answer.
const (
	maxUser   = 512 // bytes
	maxReason = 200 // bytes
)

var (
	errNoUser = errors.New("dovecot sent OK without a user name")
	errUser   = errors.New("dovecot sent OK with an invalid user name")
	errProxy  = errors.New(`dovecot would proxy this user to another server, and may not have checked the password; ` +
		`change the passdb so that it returns no "proxy" for the service smtp`)
)

// result returns the identity of an OK, or the error of an OK or a FAIL.
func (a answer) result() (auth.Identity, error) {
	switch {
	case a.verb != verbOK:
		return auth.Identity{}, a.refusal()
	case a.params.has("nologin"):
		return auth.Identity{}, &auth.Failure{Kind: auth.Disabled, Store: Kind, Reason: a.reason("nologin")}
	case a.params.has("proxy"):
		return auth.Identity{}, unavailable(errProxy)
	}
	user, _ := a.params.get("user")
	id := auth.Identity{User: user, As: user, Store: Kind}
	// After a master user login, auth_user is the user whose password was checked, and
	// user the one that the master user acts as.
	if master, ok := a.params.get("auth_user"); ok {
		id.User = master
	}
	if id.User == "" || id.As == "" {
		return auth.Identity{}, unavailable(errNoUser)
	}
	if !text.ValidName(id.User, maxUser) || !text.ValidName(id.As, maxUser) {
		return auth.Identity{}, unavailable(errUser)
	}
	return id, nil
}

// refusal returns the error that a FAIL means. Up to Dovecot 2.2 each reason was a
// parameter; since 2.3 reasons are values of "code".
func (a answer) refusal() error {
	code, _ := a.params.get("code")
	is := func(old, recent string) bool { return code == recent || a.params.has(old) }
	failure := &auth.Failure{Kind: auth.Unknowable, Store: Kind, Reason: a.reason(code)}
	switch {
	case is("temp", "temp_fail"):
		return unavailable(fmt.Errorf("dovecot reports a temporary failure; see its log: %s", a.reason(code)))
	case is("user_disabled", "user_disabled"):
		failure.Kind = auth.Disabled
	case is("pass_expired", "pass_expired"):
		failure.Kind = auth.Expired
	case is("authz", "authz_fail"):
		failure.Kind = auth.NotAllowed
	}
	return failure
}

// reason returns the reason for the log: Dovecot's code and its text.
func (a answer) reason(code string) string {
	reason, _ := a.params.get("reason")
	return text.Printable(text.Cut(strings.Trim(code+": "+reason, ": "), maxReason), '?')
}

// authLine begins an exchange. A nil response is a missing one, and an empty one is the
// client's "=" (RFC 4954, section 4).
func authLine(id uint32, mech string, p *auth.Peer, response []byte) []byte {
	line := newLine("AUTH", number(id), mech)
	line.add("service=smtp")
	line.add("nologin") // before Dovecot 2.0: no master request will follow
	line.add("no-penalty")
	if p.TLS != nil {
		line.add("secured=tls")
	}
	if p.Session != "" {
		line.add("session=" + p.Session)
	}
	line.addEndpoint("lip", "lport", p.Local)
	line.addEndpoint("rip", "rport", p.Remote)
	switch { // always the last parameter
	case response == nil:
	case len(response) == 0:
		// In versions 1.0 and 1.1 of the protocol an empty parameter was a missing
		// response. All versions accept "=".
		line.add("resp==")
	default:
		line.add("resp=" + base64.StdEncoding.EncodeToString(response))
	}
	return line.end()
}

// An outLine is a line to be sent. Every field is escaped, so that none can end the
// field or the line.
type outLine []byte

func newLine(verb string, fields ...string) *outLine {
	line := outLine(verb)
	for _, f := range fields {
		line.add(f)
	}
	return &line
}

func (l *outLine) add(field string) {
	*l = append(*l, '\t')
	*l = append(*l, escape(field)...)
}

// addEndpoint adds an address, and its port under the second name.
func (l *outLine) addEndpoint(addr, port string, e netip.AddrPort) {
	if !e.IsValid() {
		return
	}
	// A zone has a meaning on this machine only, and Dovecot does not accept one.
	l.add(addr + "=" + e.Addr().Unmap().WithZone("").String())
	l.add(port + "=" + strconv.Itoa(int(e.Port())))
}

func (l *outLine) end() []byte { return append(*l, '\n') }

func number(id uint32) string { return strconv.FormatUint(uint64(id), 10) }
