package relaytest

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

var errHungUp = errors.New("relaytest: hung up")

// A session is one connection to the hop.
type session struct {
	hop           *Hop
	conn          net.Conn
	in            *bufio.Reader
	out           *bufio.Writer
	number        int
	secure        bool
	authenticated bool
	message       Message
	mailed        bool
	sent          string // the last reply
	errors        int
	junk          int
}

func newSession(h *Hop, c net.Conn, number int) *session {
	s := &session{hop: h, number: number, authenticated: h.options.User == ""}
	s.use(c)
	if h.options.Implicit {
		s.use(tls.Server(c, h.options.TLS))
		s.secure = true
	}
	return s
}

func (s *session) use(c net.Conn) {
	s.conn, s.in, s.out = c, bufio.NewReader(c), bufio.NewWriter(c)
}

// run returns when either side has disconnected.
func (s *session) run() {
	err := s.answer(Command{Conn: s.number, Verb: "CONNECT"}, func() string { return "220 hop.example.org ESMTP" })
	for err == nil {
		var line string
		if line, err = s.line(); err == nil {
			err = s.command(line)
		}
	}
	s.out.Flush()
	s.conn.Close()
}

// line reads a line. It is a fault if the line is not clean.
func (s *session) line() (string, error) {
	line, err := s.in.ReadBytes('\n')
	if err != nil {
		return "", err
	}
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || bytes.ContainsAny(text, "\r\x00") {
		s.hop.fault("connection %d: unclean line %q", s.number, line)
	}
	return string(text), nil
}

func verbOf(line string) string {
	verb, _, _ := strings.Cut(line, " ")
	return strings.ToUpper(verb)
}

func (s *session) command(line string) error {
	c := Command{Conn: s.number, Verb: verbOf(line), Line: line}
	switch c.Verb {
	case "EHLO", "HELO", "RSET", "NOOP", "VRFY":
		s.junk++
	case "MAIL", "RCPT":
		c.Address, _ = address(line)
	case "DATA":
		return s.data(c)
	case "QUIT":
		if err := s.answer(c, func() string { return "221 2.0.0 Bye" }); err != nil {
			return err
		}
		return errHungUp
	case "STARTTLS":
		return s.startTLS(c)
	case "AUTH":
		return s.answer(c, func() string { return s.auth(line) })
	}
	return s.answer(c, func() string { return s.usual(c) })
}

func (s *session) usual(c Command) string {
	switch c.Verb {
	case "EHLO":
		s.reset()
		return s.hello()
	case "HELO", "RSET":
		s.reset()
		return "250 2.0.0 Ok"
	case "NOOP":
		return "250 2.0.0 Ok"
	case "MAIL":
		switch {
		case !s.authenticated:
			return "530 5.7.0 Authentication required"
		case s.mailed:
			return "503 5.5.1 Error: nested MAIL command"
		}
		s.mailed = true
		s.message = Message{Conn: s.number}
		s.message.From, s.message.Params = address(c.Line)
		return "250 2.1.0 Ok"
	case "RCPT":
		if !s.mailed {
			return "503 5.5.1 Error: need MAIL command"
		}
		to, params := address(c.Line)
		s.message.To = append(s.message.To, Recipient{to, params})
		return "250 2.1.5 Ok"
	}
	return "502 5.5.2 Error: command not recognized"
}

func (s *session) hello() string {
	lines := []string{"hop.example.org"}
	if s.hop.options.TLS != nil && !s.secure {
		lines = append(lines, "STARTTLS")
	}
	if s.hop.options.User != "" {
		lines = append(lines, "AUTH "+cmp.Or(s.hop.options.Mechanisms, "PLAIN LOGIN"))
	}
	extensions := s.hop.options.Extensions
	if extensions == nil {
		extensions = usualExtensions
	}
	lines = append(lines, extensions...)
	last := len(lines) - 1
	for i := range lines[:last] {
		lines[i] = "250-" + lines[i]
	}
	lines[last] = "250 " + lines[last]
	return strings.Join(lines, "\r\n")
}

func (s *session) reset() { s.mailed, s.message = false, Message{} }

// address splits a line such as MAIL FROM:<address> params.
func address(line string) (addr, params string) {
	_, rest, _ := strings.Cut(line, "<")
	end := strings.LastIndex(rest, ">")
	if end < 0 {
		return "", ""
	}
	return rest[:end], strings.TrimSpace(rest[end+1:])
}

func (s *session) data(c Command) error {
	ready := len(s.message.To) > 0
	err := s.answer(c, func() string {
		if !ready {
			return "554 5.5.1 Error: no valid recipients"
		}
		return "354 End data with <CR><LF>.<CR><LF>"
	})
	if err != nil || !ready || !strings.HasPrefix(s.sent, "354") {
		return err
	}
	if a := s.hop.ask(Command{Conn: s.number, Verb: "BODY"}); a != Usual {
		return s.perform(a)
	}
	if err := s.body(); err != nil {
		return err
	}
	return s.endOfData()
}

func (s *session) body() error {
	var raw, data bytes.Buffer
	for {
		line, err := s.line()
		if err != nil {
			return err
		}
		if line == "." {
			s.message.Raw, s.message.Data = raw.Bytes(), data.Bytes()
			return nil
		}
		if strings.HasPrefix(line, ".") && !strings.HasPrefix(line, "..") {
			s.hop.fault("connection %d: a dot that is not stuffed: %q", s.number, line)
		}
		raw.WriteString(line + "\r\n")
		data.WriteString(strings.TrimPrefix(line, ".") + "\r\n")
	}
}

func (s *session) endOfData() error {
	m := s.message
	a := s.hop.ask(Command{Conn: s.number, Verb: "."}).instead(func() string {
		return fmt.Sprintf("250 2.0.0 Ok: queued as %04X", 0xA000+s.hop.count())
	})
	if a.raw != "" {
		m.Reply = strings.TrimRight(a.raw, "\r\n")
	}
	s.reset()
	if strings.HasPrefix(m.Reply, "250") {
		s.errors, s.junk = 0, 0
	}
	s.hop.record(m)
	return s.perform(a)
}

func (s *session) startTLS(c Command) error {
	if s.hop.options.TLS == nil || s.secure {
		return s.answer(c, func() string { return "502 5.5.1 Error: command not implemented" })
	}
	if err := s.answer(c, func() string { return "220 2.0.0 Ready to start TLS" }); err != nil {
		return err
	}
	s.use(tls.Server(s.conn, s.hop.options.TLS))
	s.secure = true
	s.reset()
	return nil
}

// auth supports PLAIN and LOGIN, each with an initial response.
func (s *session) auth(line string) string {
	words := strings.Fields(line)
	if len(words) != 3 {
		return "501 5.5.4 Syntax: AUTH mechanism initial-response"
	}
	first := decode(words[2])
	switch strings.ToUpper(words[1]) {
	case "PLAIN":
		s.authenticated = first == "\x00"+s.hop.options.User+"\x00"+s.hop.options.Password
	case "LOGIN":
		s.out.WriteString("334 UGFzc3dvcmQ6\r\n")
		s.out.Flush()
		password, err := s.line()
		s.authenticated = err == nil && first == s.hop.options.User && decode(password) == s.hop.options.Password
	}
	if !s.authenticated {
		return "535 5.7.8 Error: authentication failed"
	}
	return "235 2.7.0 Authentication successful"
}

func decode(text string) string {
	plain, _ := base64.StdEncoding.DecodeString(text)
	return string(plain)
}

// answer asks the handler, and replaces Usual by the text of usual.
func (s *session) answer(c Command, usual func() string) error {
	return s.perform(s.hop.ask(c).instead(usual))
}

// perform does a, within the limits of the hop.
func (s *session) perform(a Answer) error {
	s.wait(a.delay)
	if a.stall {
		s.out.Flush()
		io.Copy(io.Discard, s.conn)
		return errHungUp
	}
	s.slowDown(a.raw)
	s.sent = a.raw
	if err := s.write(a); err != nil {
		return err
	}
	if hard := s.hop.options.Limits.Hard; hard > 0 && s.errors >= hard {
		s.out.WriteString("421 4.7.0 hop.example.org Error: too many errors\r\n")
		return errHungUp
	}
	if a.hangUp {
		return errHungUp
	}
	return nil
}

// write sends the replies to commands that came together (RFC 2920) together.
func (s *session) write(a Answer) error {
	if a.trickle > 0 {
		for _, b := range []byte(a.raw) {
			s.wait(a.trickle)
			s.out.WriteByte(b)
			if err := s.out.Flush(); err != nil {
				return err
			}
		}
		return nil
	}
	s.out.WriteString(a.raw)
	if s.in.Buffered() > 0 {
		return nil
	}
	return s.out.Flush()
}

// slowDown counts errors and delays replies as Postfix does.
func (s *session) slowDown(reply string) {
	l := s.hop.options.Limits
	if reply != "" && (reply[0] == '4' || reply[0] == '5') || l.Junk > 0 && s.junk > l.Junk {
		s.errors++
		if l.Soft > 0 && s.errors > l.Soft {
			s.wait(l.Sleep)
		}
	}
}

// wait waits for d, or until the hop is stopped.
func (s *session) wait(d time.Duration) {
	if d > 0 {
		s.out.Flush()
	}
	for end := time.Now().Add(d); time.Now().Before(end) && !s.hop.isStopped(); {
		time.Sleep(min(time.Until(end), 20*time.Millisecond))
	}
}
