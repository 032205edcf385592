package test

import (
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"postern/test/kit"
)

// A codeServer is one of the two servers whose replies are compared.
type codeServer struct {
	name   string
	addrs  map[tlsMode]string
	config *tls.Config
}

// A codeSession is a session with a codeServer.
type codeSession struct {
	*submitter
	server *codeServer
	closed bool // by the server
}

// run sends the lines of a section to the server and returns an outcome for each.
// A session ends early if the server closes the connection; then there are fewer
// outcomes than lines, the last one being "closed" or a reply that closes. n
// chooses the address of the client.
func (s *codeServer) run(section *codeSection, lines []codeLine, n int) ([]string, error) {
	c, err := s.open(section, n)
	if err != nil {
		return nil, fmt.Errorf("%s: %s, %s: %w", s.name, section.file, section.name, err)
	}
	defer c.Close()
	var outcomes []string
	for _, l := range lines {
		outcomes = append(outcomes, c.outcomes(l))
		if c.closed {
			return outcomes, nil
		}
	}
	last := len(outcomes) - 1
	outcomes[last] += c.probe(outcomes[last])
	return outcomes, nil
}

// open opens a session and brings it into the state of the section.
func (s *codeServer) open(section *codeSection, n int) (*codeSession, error) {
	mode := implicitTLS
	if section.state == statePlain {
		mode = startTLS
	}
	conn, err := dialFrom(loopbackClient(n), s.addrs[mode])
	if err != nil {
		return nil, err
	}
	if mode == implicitTLS {
		conn = tls.Client(conn, s.config)
	}
	c := &codeSession{submitter: newSubmitter(conn), server: s}
	if err := c.prepare(section); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *codeSession) prepare(section *codeSection) error {
	before := []string{""} // the greeting
	if section.state == stateTLS || section.state == stateUser {
		before = append(before, "EHLO client.example")
	}
	if section.state == stateUser {
		before = append(before, "AUTH PLAIN "+kit.Plain("alice", password))
	}
	if err := c.wantAll(before...); err != nil {
		return err
	}
	for _, s := range section.setup {
		r, err := c.Ask(s.command)
		if err != nil {
			return fmt.Errorf("%q: %w", s.command, err)
		}
		if refused := r.Code >= 400; refused != s.refused {
			return fmt.Errorf("%q got %v", s.command, r)
		}
	}
	return nil
}

// outcomes sends a line as often as it specifies and returns the outcomes; equal ones in
// a row are counted, as in "1000*250 2, 200*452 4".
func (c *codeSession) outcomes(l codeLine) string {
	if l.repeat == 1 {
		return c.outcome(l.bytes)
	}
	var runs []string
	last, count := "", 0
	flush := func() {
		if count > 0 {
			runs = append(runs, fmt.Sprintf("%d*%s", count, last))
		}
	}
	for i := range l.repeat {
		line := l.bytes
		if strings.Contains(line, "%d") {
			line = fmt.Sprintf(line, i+1)
		}
		o := c.outcome(line)
		if o != last {
			flush()
			last, count = o, 0
		}
		count++
		if c.closed {
			break
		}
	}
	flush()
	return strings.Join(runs, ", ")
}

// outcome sends one line and returns its reply code and the class of the enhanced
// code, as in "250 2", or "closed" if the connection is closed instead. After 354
// a message is sent, and its outcome is appended.
func (c *codeSession) outcome(line string) string {
	r, err := c.exchange(line)
	if err != nil {
		c.closed = true
		return "closed"
	}
	o := codes(r)
	switch {
	case r.Code == 354:
		return o + ", " + c.outcome("Subject: x\r\n\r\nx\r\n.\r\n")
	case r.Code == 220 && c.upgrade() != nil, r.Code == 221, r.Code == 421:
		return o + c.probe(o)
	}
	return o
}

// exchange sends bytes and reads one reply. It reads even if writing fails: a server may
// send its reply and close the connection before it has read everything.
func (c *codeSession) exchange(bytes string) (kit.Reply, error) {
	if err := c.Conn.SetDeadline(time.Now().Add(kit.Patience)); err != nil {
		return kit.Reply{}, err
	}
	_, _ = c.Conn.Write([]byte(bytes))
	code, text, err := c.Text.ReadResponse(0)
	return kit.Reply{Code: code, Text: text}, err
}

// upgrade starts TLS after the 220 that STARTTLS got.
func (c *codeSession) upgrade() error {
	conn := tls.Client(c.Conn, c.server.config)
	if err := conn.Handshake(); err != nil {
		return err
	}
	c.Client = kit.NewClient(conn)
	return nil
}

// probe checks whether the server has closed the connection, and returns a suffix for the
// outcome: a 421 that follows the reply, "closed" if the connection is closed after a
// code other than 221 and 421, "open" if it is not closed after one of them.
func (c *codeSession) probe(outcome string) string {
	code := lastCode(outcome)
	if code == "334" || code == "closed" {
		return "" // the next line would be a response, or there is none
	}
	r, err := c.exchange("NOOP\r\n")
	c.closed = err != nil
	closes := code == "221" || code == "421"
	switch {
	case c.closed && !closes:
		return " closed"
	case !c.closed && closes:
		return " open"
	case r.Code == 421:
		closing := ", " + codes(r)
		return closing + c.probe(closing)
	}
	return ""
}

// lastCode returns the reply code at the end of an outcome.
func lastCode(outcome string) string {
	parts := strings.Split(outcome, ", ")
	last := parts[len(parts)-1]
	if _, repeated, ok := strings.Cut(last, "*"); ok {
		last = repeated
	}
	code, _, _ := strings.Cut(last, " ")
	return code
}

// codes returns the code of a reply and the class of its enhanced code, if it has one.
func codes(r kit.Reply) string {
	if len(r.Text) > 1 && r.Text[1] == '.' && strings.Contains("245", r.Text[:1]) {
		return fmt.Sprintf("%d %s", r.Code, r.Text[:1])
	}
	return fmt.Sprint(r.Code)
}
