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
	limited                          // allowed after Conn.LimitCommands
)

// commands are all commands that are known, by their verb in capitals.
var commands = map[string]command{
	"EHLO":     {(*Conn).greet, junk | inClear | limited},
	"HELO":     {(*Conn).greet, junk | inClear | limited},
	"STARTTLS": {(*Conn).startTLS, inClear | limited},
	"AUTH":     {(*Conn).auth, 0},
	"MAIL":     {(*Conn).mailFrom, 0},
	"RCPT":     {(*Conn).rcptTo, 0},
	"DATA":     {(*Conn).data, 0},
	"BDAT":     {(*Conn).bdat, inClear | limited}, // to read its chunk; it is refused then
	"RSET":     {(*Conn).simple, junk | limited},
	"NOOP":     {(*Conn).simple, junk | inClear | limited},
	"VRFY":     {(*Conn).simple, junk},
	"QUIT":     {(*Conn).simple, inClear | limited},

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
	if c.beginsProxyV2(line) {
		return c.closeForeign(protocolPROXY)
	}
	if verb == "" {
		c.refuse("unknown", "", replyEmptyLine)
		c.countJunk()
		return nil
	}
	known, ok := commands[verb]
	if !ok {
		if protocol := foreignProtocol(line); protocol != "" {
			return c.closeForeign(protocol)
		}
		// The line does not come back: a client that has fallen out of step may have sent a password.
		c.refuse("unknown", "", replyUnknownCommand)
		return nil
	}
	r := replyNeedTLS
	var err error
	switch {
	case c.limited != nil && known.flags&limited == 0:
		r = c.limited
	case c.transport.tls != nil || !c.cfg.RequireTLS || c.limited != nil || known.flags&inClear != 0:
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
