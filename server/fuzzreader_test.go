package server

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// A reader reads what was sent and received on a connection once more, as simply as
// possible, and finds out which replies had to come.
type reader struct {
	t       *testing.T
	c       *pipeClient
	secure  bool
	sent    []byte
	replies []string
	loose   bool // the server has ended the connection, or not all replies have come
	counts  *counts
	readSession
	found []acceptance
}

// counts are the budgets of a connection. They survive STARTTLS.
type counts struct {
	errors, junk int
	proxyLines   int // of the signature of a PROXY header; more than 3: there is none
}

// addJunk counts what does nothing for a message.
func (c *counts) addJunk() {
	if c.junk++; c.junk > maxJunk {
		c.errors++
	}
}

// A readSession is the state of a session, up to STARTTLS.
type readSession struct {
	hello  bool
	user   string
	mailed bool
	from   string
	to     []string
	chunks chunkState

	overshoot int // recipients above the limit
}

// A chunkState is the state of a message that is sent with BDAT.
type chunkState struct {
	begun    bool
	refused  bool
	count    int
	received uint64
	text     string
}

// read returns the messages that were accepted on a connection.
func read(t *testing.T, c *pipeClient) []acceptance {
	t.Helper()
	if c.early {
		t.Errorf("the server has sent something before the client, in TLS: %q", c.secure.received)
	}
	r := &reader{t: t, c: c, sent: c.clear.sent, counts: new(counts)}
	if c.listener == starttlsListener {
		r.replies = r.lines(c.clear.received)
		r.conversation(true)
	} else if len(c.clear.received) > 0 && !isAlert(c.clear.received) {
		t.Errorf("in clear, where TLS is from the first byte: %q", c.clear.received)
	}
	secure := &reader{t: t, c: c, secure: true, sent: c.secure.sent, counts: r.counts}
	secure.replies = secure.lines(c.secure.received)
	secure.conversation(c.listener != starttlsListener)
	return append(r.found, secure.found...)
}

// isAlert reports whether this is a TLS alert and nothing else (RFC 8446, section 6):
// what a client in clear receives from a server that speaks TLS.
func isAlert(b []byte) bool { return len(b) >= 7 && b[0] == 21 && b[1] == 3 }

// lines takes replies apart; each is the code and the text of its last line.
func (r *reader) lines(received []byte) (replies []string) {
	for len(received) > 0 {
		if !r.secure && received[0] == 21 {
			return append(replies, string(received))
		}
		line, rest, ok := bytes.Cut(received, []byte("\r\n"))
		received = rest
		text := string(line)
		if !ok || !replyLine.MatchString(text) || len(text) > 510 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			r.t.Errorf("this is no line of a reply: %q", line)
			return replies
		}
		if len(text) == 3 || text[3] == ' ' {
			replies = append(replies, text)
		}
	}
	return replies
}

var replyLine = regexp.MustCompile(`^[2-5][0-9][0-9](?:[ -].*)?$`)

// The replies that do not count as errors, or not at first, and the one after too many
// errors.
const (
	replyToEmptyLine  = "500 5.5.2 Error: bad syntax"
	replyToLaterChunk = "503 5.5.1 Error: an earlier chunk was refused"
	replyToMoreRcpts  = "452 4.5.3 Error: too many recipients"
	replyToErrors     = "421 4.7.0 Error: too many errors"

	replyBeforeTLS = "530 5.7.0 Must issue a STARTTLS command first"
)

// inClear are the commands that are not refused before TLS (RFC 3207, section 4); BDAT is
// refused after its chunk has been read.
var inClear = []string{"EHLO", "HELO", "NOOP", "QUIT", "STARTTLS", "BDAT"}

// reply takes the next reply. It is an empty string if there is none; all later ones may
// be missing then.
func (r *reader) reply() string {
	if len(r.replies) == 0 {
		if !r.loose && !r.c.isShort() {
			r.t.Errorf("a command without a reply, before %.200q", r.sent)
		}
		r.loose = true
		return ""
	}
	next := r.replies[0]
	r.replies = r.replies[1:]
	switch {
	case strings.HasPrefix(next, "421 "):
		r.loose, r.sent = true, nil
		if next == replyToErrors && r.counts.errors < maxErrors {
			r.t.Errorf("%q after %d errors", next, r.counts.errors)
		}
	case strings.HasPrefix(next, replyToMoreRcpts):
		if r.overshoot++; r.overshoot > Defaults().Limits.RecipientOvershoot {
			r.counts.errors++
		}
	case next[0] >= '4' && next != replyToEmptyLine && next != replyToLaterChunk:
		r.counts.errors++
	}
	return next
}

// expect takes the next reply, which must begin with one of these texts, unless it is
// missing or the server closes the connection.
func (r *reader) expect(what string, begins ...string) string {
	reply := r.reply()
	fits := func(begin string) bool { return strings.HasPrefix(reply, begin) }
	if reply != "" && !strings.HasPrefix(reply, "421 ") && !slices.ContainsFunc(begins, fits) {
		r.t.Errorf("%q in reply to %.200q, want %q", reply, what, begins)
	}
	return reply
}

// expectClose takes the last reply of a connection that the server must close.
func (r *reader) expectClose(what string) {
	if reply := r.reply(); reply != "" && !strings.HasPrefix(reply, "421 ") {
		r.t.Errorf("%q in reply to %.200q, after which the connection must be closed", reply, what)
	}
	r.loose, r.sent = true, nil
}

// The limits of the server, as the protocol is described.
const (
	maxErrors = 20
	maxJunk   = 100
	sizeLimit = 64 << 10 // of a message, in octets

	longLine    = 16 << 10             // a line of more octets is refused
	endlessLine = 64 << 10             // the connection may be closed after so many
	surelyEnded = endlessLine + 17<<10 // it must be closed after so many: a block more
)

// A lineKind is how much of a line there is.
type lineKind int

const (
	wholeLine lineKind = iota
	tooLongLine
	cutLine // without a line end, which the end of the connection cuts
)

// line takes the next line of the client, and the number of its octets.
func (r *reader) line() (line []byte, n int, kind lineKind) {
	i := bytes.IndexByte(r.sent, '\n')
	if i < 0 {
		line, r.sent = r.sent, nil
		return line, len(line), cutLine
	}
	line, r.sent = r.sent[:i+1], r.sent[i+1:]
	if len(line) > longLine {
		return line, len(line), tooLongLine
	}
	return line, len(line), wholeLine
}

// overlong takes the reply to a line that is too long, and reports whether the
// conversation goes on.
func (r *reader) overlong(n int, reply string) bool {
	r.expect("a long line", reply, "500 5.5.2 Error: line too long")
	switch {
	case n <= endlessLine:
		return true
	case n > surelyEnded || len(r.replies) == 0:
		r.sent = nil
		return false
	}
	return true
}

// cut takes what is left of the replies when the connection has ended within a line.
func (r *reader) cut(n int) {
	if n > endlessLine && len(r.replies) > 0 || n > surelyEnded {
		r.expect("a line without end", "500 5.5.2 Error: line too long")
	}
}

// conversation goes through all lines.
func (r *reader) conversation(greeting bool) {
	switch {
	case len(r.replies) == 0 && (greeting || r.c.failed):
		return // the handshake has failed
	case greeting:
		r.expect("the connection", "220 ")
	}
	for !r.loose && r.next() {
		if r.counts.errors >= maxErrors && !r.loose {
			r.expectClose("too many errors")
		}
	}
	// The last reply may be a farewell.
	if len(r.replies) == 1 && strings.HasPrefix(r.replies[0], "421 ") && (r.replies[0] != replyToErrors || r.counts.errors >= maxErrors) {
		r.replies = nil
	}
	if len(r.replies) > 0 {
		r.t.Errorf("more replies than commands: %q", r.replies)
	}
}

// next takes a command and its reply, and reports whether the conversation goes on.
func (r *reader) next() bool {
	line, n, kind := r.line()
	switch {
	case len(line) > 0 && line[0] == 0x16: // a handshake of TLS, which may have no line end
		if n > longLine && len(r.replies) > 0 && strings.HasPrefix(r.replies[0], "500 ") {
			return r.overlong(n, "500 5.5.2 ")
		}
		r.expectClose("a handshake record")
		return false
	case kind == cutLine:
		r.cut(n)
		return false
	case kind == tooLongLine:
		return r.overlong(n, "500 5.5.2 ")
	}
	return r.command(string(line))
}

// verbs are the commands of the protocol; those that are true count as junk.
var verbs = map[string]bool{
	"EHLO": true, "HELO": true, "RSET": true, "NOOP": true, "VRFY": true,
	"STARTTLS": false, "AUTH": false, "MAIL": false, "RCPT": false, "DATA": false, "BDAT": false, "QUIT": false,
	"EXPN": false, "HELP": false, "SEND": false, "SOML": false, "SAML": false, "TURN": false,
}

// foreign are lines of other protocols.
var foreign = regexp.MustCompile(`^(?:SSH-|PROXY |(?i:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI) |[!-9;-~]+[ \t]*:)`)

// command takes a line and what belongs to it, and reports whether the conversation goes
// on.
func (r *reader) command(line string) bool {
	text := strings.Trim(line, " \t\r\n")
	verb, argument := text, ""
	if i := strings.IndexAny(text, " \t"); i >= 0 {
		verb, argument = text[:i], strings.TrimLeft(text[i:], " \t")
	}
	verb = strings.Map(asciiCapital, verb)
	junk, known := verbs[verb]
	goesOn := true
	if n := r.counts.proxyLines; n < 3 && line == [...]string{"\r\n", "\r\n", "\x00\r\n"}[n] {
		r.counts.proxyLines++
	} else {
		r.counts.proxyLines = 4
	}
	switch {
	case r.counts.proxyLines == 3: // the signature of a PROXY header
		r.expectClose(line)
	case verb == "":
		r.expect(line, replyToEmptyLine)
		junk = true
	case !known && foreign.MatchString(line):
		r.expectClose(line)
	case !known:
		r.expect(line, "500 5.5.2 Error: command not recognized")
	case !r.secure && !slices.Contains(inClear, verb):
		r.expect(line, replyBeforeTLS)
	case verb == "DATA":
		goesOn = r.data(argument)
	case verb == "BDAT":
		goesOn = r.bdat(argument)
	case verb == "AUTH":
		goesOn = r.auth(argument)
	default:
		goesOn = r.simple(verb, argument, line)
	}
	if junk {
		r.counts.addJunk()
	}
	return goesOn
}

func asciiCapital(c rune) rune {
	if c >= 'a' && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}

// simple takes the reply to a command of one line.
func (r *reader) simple(verb, argument, line string) bool {
	reply := r.reply()
	code := reply[:min(3, len(reply))]
	if strings.Contains(reply, "queued as ") && code == "250" {
		r.t.Errorf("%q in reply to %q", reply, line)
	}
	outOfOrder := verb == "MAIL" && (!r.hello || r.mailed) || verb == "RCPT" && (!r.mailed || r.chunks.begun)
	if (verb == "MAIL" || verb == "RCPT") && reply != "" && code != "421" && (code == "503") != outOfOrder {
		r.t.Errorf("%q in reply to %q; it must be refused with 503: %v", reply, line, outOfOrder)
	}
	switch code {
	case "220":
		if verb != "STARTTLS" || argument != "" || r.secure {
			r.t.Errorf("%q in reply to %q", reply, line)
		}
		r.sent = nil
		if len(r.replies) == 1 && isAlert([]byte(r.replies[0])) {
			r.replies = nil
		}
		return false
	case "221":
		if verb != "QUIT" {
			r.t.Errorf("%q in reply to %q", reply, line)
		}
		r.sent = nil
		return false
	case "250":
		r.accepted(verb, argument, line)
	}
	return true
}

// accepted notes what a 250 means.
func (r *reader) accepted(verb, argument, line string) {
	switch verb {
	case "EHLO", "HELO":
		if argument == "" {
			r.t.Errorf("%q was accepted", line)
		}
		r.hello = true
		r.reset()
	case "RSET":
		r.reset()
	case "NOOP":
	case "MAIL":
		if !r.secure || !r.hello || r.user == "" && r.c.listener != openListener {
			r.t.Errorf("%q was accepted without AUTH or EHLO", line)
		}
		if r.mailed {
			r.t.Errorf("%q was accepted in a transaction", line)
		}
		r.mailed, r.from, r.to = true, address(argument), nil
	case "RCPT":
		known := r.from == "" || plainAddress.MatchString(r.from)
		if !r.mailed || r.chunks.begun || known && !mayUse(r.user, r.from) {
			r.t.Errorf("%q was accepted from %q as <%s>", line, r.user, r.from)
		}
		r.to = append(r.to, address(argument))
	default:
		r.t.Errorf("%q was accepted", line)
	}
}

func (r *reader) reset() {
	r.mailed, r.from, r.to, r.chunks, r.overshoot = false, "", nil, chunkState{}, 0
}

var (
	pathInBrackets = regexp.MustCompile(`^[A-Za-z ]*<[ \t]*([A-Za-z0-9]*(?:@[A-Za-z0-9.]*[A-Za-z0-9])?)[ \t]*>(?:[ \t]|$)`)
	pathWithout    = regexp.MustCompile(`^([A-Za-z0-9]+(?:@[A-Za-z0-9.]*[A-Za-z0-9])?)(?:[ \t]|$)`)
)

// address is the address in the argument of MAIL or RCPT, completed, if its form is
// simple, and "?" otherwise.
func address(argument string) string {
	_, path, _ := strings.Cut(argument, ":")
	path = strings.TrimLeft(path, " \t")
	found := pathInBrackets.FindStringSubmatch(path)
	if found == nil {
		found = pathWithout.FindStringSubmatch(path)
	}
	switch {
	case found == nil:
		return "?"
	case found[1] == "" || strings.Contains(found[1], "@"):
		return found[1]
	}
	return found[1] + "@mail.example.org"
}
