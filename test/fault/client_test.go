package fault

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"

	"postern/test/kit"
)

// A client is a mail program in the hands of a drill. Its errors are those of
// the network; it may be used by a goroutine of a test.
type client struct {
	conn net.Conn
	text *textproto.Conn
}

// A reply is what the server said.
type reply struct {
	code int
	text string
}

func (r reply) String() string { return fmt.Sprintf("%d %s", r.code, r.text) }

// connect goes as far as EHLO.
func (s *server) connect() (*client, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: kit.Patience}, "tcp", s.addr, s.tls())
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, text: textproto.NewConn(conn)}
	for _, line := range []string{"", "EHLO client.example.org"} {
		if r, err := c.ask(line); err != nil || r.code >= 400 {
			c.close()
			return nil, fmt.Errorf("%q got %v: %w", line, r, err)
		}
	}
	return c, nil
}

// login connects and authenticates with PLAIN.
func (s *server) login(user string) (*client, error) {
	c, err := s.connect()
	if err != nil {
		return nil, err
	}
	if r, err := c.auth(user); err != nil || r.code != 235 {
		c.close()
		return nil, fmt.Errorf("AUTH got %v: %w", r, err)
	}
	return c, nil
}

func (c *client) auth(user string) (reply, error) { return c.authWith(user, password) }

func (c *client) authWith(user, secret string) (reply, error) {
	return c.ask("AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+secret)))
}

func (c *client) close() { c.conn.Close() }

// ask sends a line, or nothing for "", and waits for the answer for longer
// than postern may take.
func (c *client) ask(line string) (reply, error) {
	if err := c.conn.SetDeadline(time.Now().Add(kit.Patience)); err != nil {
		return reply{}, err
	}
	if line != "" {
		if err := c.text.PrintfLine("%s", line); err != nil {
			return reply{}, err
		}
	}
	code, text, err := c.text.ReadResponse(0)
	return reply{code, text}, err
}

// submit sends one message. The reply is that to the end of data, or else the
// first refusal. ended says that the final dot has gone out.
func (c *client) submit(mark, user string, size int) (r reply, ended bool, err error) {
	for _, line := range []string{"MAIL FROM:<" + user + "@example.org>", "RCPT TO:<carol@example.net>", "DATA"} {
		if r, err = c.ask(line); err != nil || r.code >= 400 {
			_, _ = c.ask("RSET") // ready for the next one, if anybody is there
			return r, false, err
		}
	}
	w := c.text.DotWriter()
	if _, err := w.Write([]byte(letter(mark, size))); err != nil {
		return reply{}, false, err
	}
	if err := w.Close(); err != nil {
		return reply{}, true, err
	}
	r, err = c.ask("")
	return r, true, err
}

// letter is a message of about size bytes that the hop can tell from others.
func letter(mark string, size int) string {
	const line = "All work and no play makes Jack a dull boy, as the saying goes.\r\n"
	return "From: alice@example.org\r\nTo: carol@example.net\r\nSubject: " + mark +
		"\r\nDate: Sun, 01 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + mark + "@example.org>\r\n\r\n" +
		strings.Repeat(line, 1+size/len(line))
}

// markOf is the mark of a message as the hop has it.
func markOf(data []byte) string {
	_, rest, _ := strings.Cut(string(data[:min(len(data), 4096)]), "\nMessage-ID: <")
	mark, _, _ := strings.Cut(rest, "@")
	return mark
}
