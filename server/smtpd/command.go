package smtpd

import (
	"bytes"
	"crypto/tls"
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"
)

// The replies of the protocol. Codes and texts are those of the RFC that is named,
// or Postfix's.
var (
	replyOk        = NewReply(250, smtp.EnhancedCode{2, 0, 0}, "Ok")
	replyMailOk    = NewReply(250, smtp.EnhancedCode{2, 1, 0}, "Ok") // RFC 3463, section 3.2
	replyRcptOk    = NewReply(250, smtp.EnhancedCode{2, 1, 5}, "Ok")
	replyChunkOk   = NewReply(250, smtp.EnhancedCode{2, 0, 0}, "Continue")
	replyStartData = NewReply(354, smtp.NoEnhancedCode, "End data with <CR><LF>.<CR><LF>")
	replyBye       = NewReply(221, smtp.EnhancedCode{2, 0, 0}, "Bye")
	replyStartTLS  = NewReply(220, smtp.EnhancedCode{2, 0, 0}, "Ready to start TLS")
	replyVrfy      = NewReply(252, smtp.EnhancedCode{2, 0, 0}, "Cannot VRFY user, but will accept message")

	replyUnknownCommand = NewReply(500, smtp.EnhancedCode{5, 5, 2}, "Error: command not recognized")
	replyEmptyLine      = &Reply{Code: 500, Enhanced: smtp.EnhancedCode{5, 5, 2}, Lines: []string{"Error: bad syntax"}, NotAnError: true}
	replyLongLine       = NewReply(500, smtp.EnhancedCode{5, 5, 2}, "Error: line too long") // RFC 5321, section 4.5.3.1.9
	replyNotImplemented = NewReply(502, smtp.EnhancedCode{5, 5, 1}, "Error: command not implemented")
	replyNeedHello      = NewReply(503, smtp.EnhancedCode{5, 5, 1}, "Error: send EHLO first") // RFC 5321, section 4.1.4
	replyHelloSyntax    = NewReply(501, smtp.EnhancedCode{5, 5, 4}, "Syntax: EHLO hostname")
	replyRsetSyntax     = NewReply(501, smtp.EnhancedCode{5, 5, 4}, "Syntax: RSET")
	replyVrfySyntax     = NewReply(501, smtp.EnhancedCode{5, 5, 4}, "Syntax: VRFY address")
	replyNeedTLS        = NewReply(530, smtp.EnhancedCode{5, 7, 0}, "Must issue a STARTTLS command first")  // RFC 3207, section 4
	replyTLSParameter   = NewReply(501, smtp.EnhancedCode{5, 5, 4}, "Syntax error (no parameters allowed)") // RFC 3207, section 4
	replyTLSActive      = NewReply(503, smtp.EnhancedCode{5, 5, 1}, "Error: TLS already active")

	replyTimeout       = NewReply(421, smtp.EnhancedCode{4, 4, 2}, "Error: timeout exceeded")
	replyTooManyErrors = NewReply(421, smtp.EnhancedCode{4, 7, 0}, "Error: too many errors")
	replyForeign       = NewReply(421, smtp.EnhancedCode{4, 7, 0}, "Error: this port is for mail submission (SMTP) only")
	replyPanic         = NewReply(421, smtp.EnhancedCode{4, 3, 0}, "Internal error; try again later")
)

// A command is a row of the table. run returns the reply; it is nil if run has sent it.
// An error ends the connection.
type command struct {
	run   func(c *Conn, verb, argument string) (*Reply, error)
	flags commandFlags
}

type commandFlags uint8

const (
	junk    commandFlags = 1 << iota // counts towards Config.MaxJunk
	inClear                          // allowed without TLS where TLS is required (RFC 3207, section 4)
)

// commands are all commands that are known, by their verb in capitals.
var commands = map[string]command{
	"EHLO":     {(*Conn).greet, junk | inClear},
	"HELO":     {(*Conn).greet, junk | inClear},
	"STARTTLS": {(*Conn).startTLS, inClear},
	"AUTH":     {(*Conn).auth, 0},
	"MAIL":     {(*Conn).mailFrom, 0},
	"RCPT":     {(*Conn).rcptTo, 0},
	"DATA":     {(*Conn).data, 0},
	"BDAT":     {(*Conn).bdat, inClear}, // to read its chunk; it is refused then
	"RSET":     {(*Conn).simple, junk},
	"NOOP":     {(*Conn).simple, junk | inClear},
	"VRFY":     {(*Conn).simple, junk},
	"QUIT":     {(*Conn).simple, inClear},

	// RFC 5321, section 4.2.4: recognized, but not implemented.
	"EXPN": {(*Conn).simple, 0},
	"HELP": {(*Conn).simple, 0},
	"SEND": {(*Conn).simple, 0},
	"SOML": {(*Conn).simple, 0},
	"SAML": {(*Conn).simple, 0},
	"TURN": {(*Conn).simple, 0},
}

// command runs one command line.
func (c *Conn) command(line []byte) error {
	verb, argument := splitCommand(line)
	if verb == "AUTH" {
		clear(line) // it may hold a password, and the buffer serves others
	}
	if verb == "" {
		c.refuse("unknown", "", replyEmptyLine)
		c.countJunk()
		return nil
	}
	known, ok := commands[verb]
	if !ok {
		if protocol := foreignProtocol(line); protocol != "" {
			c.CloseAfterReply(replyForeign)
			return &ForeignError{Protocol: protocol}
		}
		// The line does not come back: a client that has fallen out of step may have sent a password.
		c.refuse("unknown", "", replyUnknownCommand)
		return nil
	}
	r := replyNeedTLS
	var err error
	if c.transport.tls != nil || !c.cfg.RequireTLS || known.flags&inClear != 0 {
		r, err = known.run(c, verb, argument)
	}
	switch {
	case r == nil:
	case !r.Negative():
		c.send(r)
	case verb == "AUTH":
		c.refuse(verb, "", r)
	default:
		c.refuse(verb, argument, r)
	}
	if known.flags&junk != 0 {
		c.countJunk()
	}
	return err
}

// countJunk is for commands that do nothing for a message. Beyond the limit each
// counts as an error, whatever its reply (smtpd_junk_command_limit).
func (c *Conn) countJunk() {
	if c.junk++; c.junk > c.cfg.MaxJunk {
		c.countError()
	}
}

const blanks = " \t"

// splitCommand returns the verb in capitals, and the argument without the blanks
// around it. Only ASCII letters have capitals: U+017F is not an S.
func splitCommand(line []byte) (verb, argument string) {
	line = bytes.Trim(line, blanks+"\r\n")
	end := bytes.IndexAny(line, blanks)
	if end < 0 {
		end = len(line)
	}
	var capitals [8]byte
	if end > len(capitals) {
		return "?", ""
	}
	for i, b := range line[:end] {
		if b >= 'a' && b <= 'z' {
			b -= 'a' - 'A'
		}
		capitals[i] = b
	}
	return string(capitals[:end]), string(bytes.TrimLeft(line[end:], blanks))
}

// maxHello is how much of the argument of EHLO is kept. A domain has at most 255
// octets (RFC 5321, section 4.5.3.1.2).
const maxHello = 512

// greet is EHLO and HELO. It begins the session anew, as RSET does (RFC 5321, section
// 4.1.4).
func (c *Conn) greet(verb, argument string) (*Reply, error) {
	name, _, _ := strings.Cut(strings.ReplaceAll(argument, "\t", " "), " ")
	if name == "" {
		return replyHelloSyntax, nil
	}
	c.endTransaction(ResetHello, ErrReset)
	ctx, cancel := c.replyContext()
	defer cancel()
	c.hello, c.extended = strings.Clone(name[:min(len(name), maxHello)]), verb == "EHLO" // without the rest of the line
	if r := c.session.Hello(ctx, c.hello, c.extended); r != nil && r.Negative() {
		c.hello = ""
		return r, nil
	}
	c.offer = c.session.Offer()
	c.offer.DSN = c.offer.DSN && !c.hides("DSN")
	c.offer.UTF8 = c.offer.UTF8 && !c.hides("SMTPUTF8")
	lines := []string{c.cfg.Hostname}
	if c.extended {
		lines = append(lines, c.keywords()...)
	}
	return &Reply{Code: 250, Enhanced: smtp.NoEnhancedCode, Lines: lines}, nil
}

// Keywords are the keywords that EHLO can list, in this order.
var Keywords = []string{"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "STARTTLS", "AUTH", "SMTPUTF8", "DSN", "SIZE", "LIMITS"}

// keywords are the lines of the reply to EHLO, but for the first.
func (c *Conn) keywords() []string {
	all := make([]string, 0, len(Keywords))
	for _, keyword := range Keywords {
		line := keyword
		switch keyword {
		case "STARTTLS":
			if c.cfg.TLS == nil || c.transport.tls != nil {
				continue
			}
		case "AUTH":
			if len(c.offer.Mechanisms) == 0 {
				continue
			}
			line += " " + strings.Join(c.offer.Mechanisms, " ")
		case "SMTPUTF8":
			if !c.offer.UTF8 {
				continue
			}
		case "DSN":
			if !c.offer.DSN {
				continue
			}
		case "SIZE":
			if c.offer.Size > 0 {
				line += " " + strconv.FormatInt(c.offer.Size, 10)
			}
		case "LIMITS":
			if c.offer.RcptMax == 0 {
				continue
			}
			line += " RCPTMAX=" + strconv.Itoa(c.offer.RcptMax)
		}
		if !c.hides(keyword) {
			all = append(all, line)
		}
	}
	return all
}

func (c *Conn) hides(keyword string) bool {
	return slices.Contains(c.cfg.HiddenKeywords, keyword)
}

// startTLS is STARTTLS. It forgets everything that was sent in clear text (RFC 3207,
// section 4.2). What the client sent after the command is discarded: an attacker in
// between may have put it there (CVE-2011-0411).
func (c *Conn) startTLS(_, argument string) (*Reply, error) {
	switch {
	case argument != "":
		return replyTLSParameter, nil
	case c.transport.tls != nil:
		return replyTLSActive, nil
	case c.cfg.TLS == nil:
		return replyNotImplemented, nil
	}
	c.send(replyStartTLS)
	if err := c.flush(); err != nil {
		return nil, err
	}
	if c.mail.open {
		c.endTransaction(ResetTLS, ErrReset)
	} else {
		c.session.Reset(c.ctx, ResetTLS)
	}
	c.in.drop()
	c.hello, c.extended, c.offer, c.loggedIn = "", false, Offer{}, false
	c.transport.tls = tls.Server(&c.transport, c.cfg.TLS) // the handshake happens at the next receive or send
	return nil, nil
}

// simple is a command that decides nothing.
func (c *Conn) simple(verb, argument string) (*Reply, error) {
	switch verb {
	case "NOOP":
		return replyOk, nil
	case "RSET":
		if argument != "" {
			return replyRsetSyntax, nil
		}
		c.endTransaction(ResetCommand, ErrReset)
		return replyOk, nil
	case "VRFY":
		if argument == "" {
			return replyVrfySyntax, nil
		}
		return replyVrfy, nil
	case "QUIT":
		return replyBye, ErrQuit
	}
	return replyNotImplemented, nil
}

// A ForeignError is a client that speaks another protocol than SMTP. A browser can
// be made to send mail if a server takes its request for commands (cross-protocol
// attacks: ALPACA; Postfix's smtpd_forbidden_commands).
type ForeignError struct{ Protocol string }

func (e *ForeignError) Error() string { return "smtpd: client speaks " + e.Protocol + ", not SMTP" }

// startsTLS reports whether p begins a TLS handshake record (RFC 8446, section 5.1).
func startsTLS(p []byte) bool { return len(p) > 0 && p[0] == 0x16 }

// foreignProtocol names the protocol of a line that is certainly no SMTP command,
// or returns an empty string.
func foreignProtocol(line []byte) string {
	switch {
	case startsTLS(line):
		return "TLS"
	case bytes.HasPrefix(line, []byte("SSH-")):
		return "SSH"
	case isRequestLine(line):
		return "HTTP"
	case isHeaderLine(line):
		return "header fields"
	}
	return ""
}

// httpMethods are those of RFC 9110, PATCH (RFC 5789), and PRI, with which HTTP/2
// begins (RFC 9113).
var httpMethods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI"}

func isRequestLine(line []byte) bool {
	word, _, found := bytes.Cut(line, []byte(" "))
	if !found {
		return false
	}
	for _, method := range httpMethods {
		if bytes.EqualFold(word, []byte(method)) {
			return true
		}
	}
	return false
}

// isHeaderLine reports whether line is like a header field: a name, blanks, and a
// colon. No command has a colon there.
func isHeaderLine(line []byte) bool {
	end := bytes.IndexFunc(line, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
	if end < 1 {
		return false
	}
	rest := bytes.TrimLeft(line[end:], blanks)
	return len(rest) > 0 && rest[0] == ':'
}
